"""The interval of a win rate against scipy's exact one, random weights drawn, and what a better record may do to it."""

import numpy as np
import pytest
from scipy.stats import binomtest

from epsilon_dpo.analysis.intervals.rates import Estimate
from epsilon_dpo.analysis.intervals.win_rates import win_rate


def of_counts(lost: int, tied: int, won: int) -> Estimate:
    return win_rate(np.repeat([0.0, 0.5, 1.0], [lost, tied, won]), np.arange(lost + tied + won), 0.95)


@pytest.mark.parametrize(("won", "n"), [(0, 1), (1, 1), (0, 20), (1, 29), (81, 263), (20, 20), (4665, 4666)])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_wins_and_losses_have_clopper_and_pearsons_interval(won, n, confidence):
    found = win_rate(np.arange(n) < won, np.arange(n), confidence)
    exact = binomtest(won, n).proportion_ci(confidence, "exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-7)
    assert (found.value, found.n) == (won / n, n)


def test_the_ends_are_quantiles_of_randomly_weighted_means():
    """Prompts with 1 to 6 records: a lost prompt of the size of the average record's takes part, or a won one."""
    generator = np.random.default_rng(0)
    sizes = generator.choice([1, 2, 6], 25)
    wins, prompts = generator.choice([0.0, 0.5, 1.0], sizes.sum(), p=[0.1, 0.2, 0.7]), np.repeat(np.arange(25), sizes)
    found = win_rate(wins, prompts, 0.9)
    totals, further = np.bincount(prompts, weights=wins), sizes @ sizes / sizes.sum()
    weights = generator.standard_exponential((200_000, 26))
    total, size = weights[:, :25] @ totals, weights @ np.append(sizes, further)
    low, high = np.quantile(total / size, 0.05), np.quantile((total + weights[:, 25] * further) / size, 0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)
    assert found.value == pytest.approx(wins.mean()) and found.n == 25


def test_a_better_record_lowers_no_end():
    """All outcomes of 30 prompts; by Wilson without ties and the bootstrap with one: low .887, .950, .833."""
    all_won, tied, lost = of_counts(0, 0, 30), of_counts(0, 1, 29), of_counts(1, 0, 29)
    assert all_won.low > tied.low > lost.low and all_won.high == 1.0 > tied.high > lost.high
    found = {(a, b): of_counts(a, b, 30 - a - b) for a in range(31) for b in range(31 - a)}
    for (losses, ties), one in found.items():
        assert one.low <= one.value <= one.high and (one.low < one.high)
        for better in [(losses - 1, ties + 1)] * (losses > 0) + [(losses, ties - 1)] * (ties > 0):
            assert found[better].low >= one.low and found[better].high >= one.high, (losses, ties, better)


def test_a_better_record_lowers_no_end_where_prompts_have_several():
    generator = np.random.default_rng(1)
    prompts = np.repeat(np.arange(12), generator.choice([1, 2, 6], 12))
    wins = np.zeros(len(prompts))
    before = win_rate(wins, prompts, 0.95)
    assert before.low == 0.0
    for record in generator.permutation(np.repeat(np.arange(len(wins)), 2)):
        wins[record] += 0.5
        after = win_rate(wins, prompts, 0.95)
        assert after.low >= before.low and after.high >= before.high and after != before
        before = after
    assert before.high == 1.0


def test_a_lost_rate_is_a_won_one_upside_down_in_any_order():
    wins, prompts = np.array([1.0, 0.5, 1.0, 0.0, 1.0, 0.5]), np.array(list("aabbcd"))
    found, mirrored = win_rate(wins, prompts, 0.95), win_rate(1.0 - wins[::-1], prompts[::-1], 0.95)
    assert (mirrored.low, mirrored.high) == pytest.approx((1.0 - found.high, 1.0 - found.low), abs=1e-9)


def test_answers_to_one_prompt_are_one_observation():
    wins = np.random.default_rng(3).choice([0.0, 0.5, 1.0], 80)
    once, thrice = win_rate(wins, np.arange(80), 0.95), win_rate(np.repeat(wins, 3), np.repeat(np.arange(80), 3), 0.95)
    assert (thrice.low, thrice.high, thrice.n) == (pytest.approx(once.low), pytest.approx(once.high), 80)
    apart = win_rate(np.repeat(wins, 3), np.arange(240), 0.95)
    assert (once.high - once.low) / (apart.high - apart.low) == pytest.approx(3**0.5, rel=0.05)


def test_without_spread_there_is_still_an_interval():
    tied = of_counts(0, 30, 0)  # a mean of halves and one further prompt: 1/2 times Clopper and Pearson's low end
    assert (tied.low, tied.high) == pytest.approx((0.025 ** (1 / 30) / 2, 1.0 - 0.025 ** (1 / 30) / 2), abs=1e-7)
    alone = win_rate([1.0, 0.5, 0.0], ["a"] * 3, 0.95)
    assert (alone.low, alone.high, alone.n) == (pytest.approx(0.0125, abs=1e-7), pytest.approx(0.9875, abs=1e-7), 1)


def test_the_value_is_that_of_records_and_never_outside():
    assert win_rate([1.0, 1.0, 0.0], [0, 0, 1], 0.95).value == pytest.approx(2 / 3)
    narrow = win_rate([1.0] * 9 + [0.0], range(10), 0.01)
    assert narrow.low <= 0.9 <= narrow.high


@pytest.mark.parametrize(
    ("wins", "prompts", "confidence", "message"),
    [
        ([0.2, 1.2], "ab", 0.95, "between 0 and 1"),
        ([0.2, -0.2], "ab", 0.95, "between 0 and 1"),
        ([], "", 0.95, "not empty"),
        ([1.0], "ab", 0.95, "one length"),
        ([1.0, float("nan")], "ab", 0.95, "not all finite"),
        ([1.0, 0.0], "ab", 95, r"95 is not in \(0, 1\)"),
    ],
)
def test_what_has_no_interval_is_refused(wins, prompts, confidence, message):
    with pytest.raises(ValueError, match=message):
        win_rate(wins, list(prompts), confidence)
