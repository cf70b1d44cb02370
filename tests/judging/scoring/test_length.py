"""Length-controlled rates against scipy's optimum, closed forms and symmetries."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from epsilon_dpo.analysis.intervals.win_rates import win_rate
from epsilon_dpo.judging.scoring.length import RIDGE, length_controlled


@pytest.fixture
def pairs():
    """Wins, lengths and prompts of 300 pairs in which longer answers win and a's are longer."""
    generator = np.random.default_rng(0)
    a, b = generator.integers(20, 400, 300), generator.integers(10, 200, 300)
    wins = (generator.random(300) < expit(-0.3 + 1.5 * np.tanh((a - b) / (a - b).std()))).astype(float)
    wins[::10] = 0.5
    return wins, a, b, np.arange(300)


def test_it_is_the_optimum_of_the_stated_likelihood(pairs):
    wins, a, b, _ = pairs
    x = np.tanh((a - b) / np.std(a - b))

    def loss(c):
        z = c[0] + c[1] * x
        return -np.sum(wins * log_expit(z) + (1 - wins) * log_expit(-z)) + RIDGE / 2 * np.sum(c**2)

    theirs = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-8}).x
    ours = length_controlled(*pairs, 0.95)
    assert (ours.win_rate.value, ours.slope) == pytest.approx((expit(theirs[0]), theirs[1]), abs=1e-5)
    assert ours.win_rate.value < wins.mean() - 0.1, "longer answers won here; at equal length a wins less"
    assert ours.win_rate.low < ours.win_rate.value < ours.win_rate.high and ours.win_rate.n == 300


@pytest.mark.parametrize(("n", "t", "near"), [(200, 1.972, 2.5e-4), (10, 2.306, 5e-4)])
def test_the_interval_is_the_textbooks_for_equal_lengths(n, t, near):
    """Without length differences the fit is an intercept: logit(p) ± t / sqrt(n p (1 - p)), the delta method's, with
    the correction n / (n - 1) of a variance between n prompts, and Student's t of n - 2 degrees of freedom."""
    wins = np.repeat([1.0, 0.0], [n * 6 // 10, n * 4 // 10])
    found = length_controlled(wins, np.full(n, 9), np.full(n, 9), np.arange(n), 0.95)
    half = t * np.sqrt(n / (n - 1) / (n * 0.6 * 0.4))
    assert found.win_rate.value == pytest.approx(0.6, abs=near) and found.slope == 0.0
    ends = expit(np.log(1.5) + np.array([-half, half]))
    assert (found.win_rate.low, found.win_rate.high) == pytest.approx(tuple(ends), abs=4 * near)


def test_swapping_the_sides_mirrors_everything(pairs):
    wins, a, b, prompts = pairs
    ours, theirs = length_controlled(*pairs, 0.95), length_controlled(1 - wins, b, a, prompts, 0.95)
    assert theirs.win_rate.value == pytest.approx(1 - ours.win_rate.value)
    assert theirs.win_rate.low == pytest.approx(1 - ours.win_rate.high)
    assert theirs.slope == pytest.approx(ours.slope)
    assert theirs.similar.value == pytest.approx(1 - ours.similar.value) and theirs.similar.n == ours.similar.n


def test_copies_under_one_prompt_add_no_certainty(pairs):
    """The sandwich sees the prompts; the curvature alone would narrow the interval by sqrt(4)."""
    once = length_controlled(*pairs, 0.95).win_rate
    four = length_controlled(*(np.repeat(column, 4) for column in pairs), 0.95).win_rate
    assert four.n == 300 and four.value == pytest.approx(once.value, abs=1e-4)
    assert four.high - four.low == pytest.approx(once.high - once.low, rel=0.1)


def test_similar_pairs_differ_by_at_most_a_fifth_of_the_longer():
    a, b = [100, 80, 79, 100, 0, 50], [80, 100, 100, 79, 0, 0]
    found = length_controlled([1.0, 1.0, 0.0, 0.0, 0.5, 0.0], a, b, range(6), 0.95)
    assert found.similar == win_rate([1.0, 1.0, 0.5], range(3), 0.95)
    far = length_controlled([1.0, 0.0, 1.0], [9, 1, 5], [1, 9, 50], range(3), 0.95)
    assert far.similar is None


def test_wins_that_length_separates_give_a_finite_rate_that_admits_ignorance():
    """The longer answer always wins, and no pair is closer than 20 tokens: nothing is known of equal length."""
    differences = np.array([-60, -40, -20, 20, 40, 60] * 10)
    wins = (differences > 0).astype(float)
    found = length_controlled(wins, 100 + differences, np.full(60, 100), range(60), 0.95)
    assert found.win_rate.value == pytest.approx(0.5, abs=1e-6)
    assert found.win_rate.low < 0.2 and found.win_rate.high > 0.8 and 5.0 < found.slope < 100.0


def test_many_separated_pairs_converge():
    differences = np.tile([-3.0, -1.0, 2.0, 4.0], 25_000)
    found = length_controlled(differences > 0, 9 + differences, np.full(100_000, 9), range(100_000), 0.95)
    assert 0.0 < found.win_rate.low < found.win_rate.value < found.win_rate.high < 1.0


@pytest.mark.parametrize("n", [5, 60, 1300, 2000, 5000])
@pytest.mark.parametrize("runaways", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("reversed_", [0.0, 0.05])
def test_every_fit_returns(n, runaways, reversed_):
    """Some answers that never stop, thousands of tokens longer than the others, put the optimum far away."""
    for seed, (spread, slope) in enumerate([(0.1, 1.0), (10.0, 0.3), (10.0, 100.0), (300.0, 0.01)]):
        generator = np.random.default_rng(seed)
        differences = generator.normal(0.0, spread, n) + 2000.0 * (generator.random(n) < runaways)
        wins = generator.random(n) < expit(slope * differences)
        wins = np.where(generator.random(n) < reversed_, ~wins, wins).astype(float)
        found = length_controlled(wins, 5000.0 + differences, np.full(n, 5000.0), range(n), 0.95)
        assert 0.0 <= found.win_rate.low <= found.win_rate.value <= found.win_rate.high <= 1.0


def test_runaways_leave_the_optimum_of_the_stated_likelihood():
    generator = np.random.default_rng(0)
    differences = generator.normal(0.0, 10.0, 2000)
    differences[:100] += 2000.0
    wins = (generator.random(2000) < expit(0.3 * differences)).astype(float)
    found = length_controlled(wins, 3000.0 + differences, np.full(2000, 3000.0), range(2000), 0.95)
    x = np.stack([np.ones(2000), np.tanh(differences / differences.std())], 1)
    optimum = np.array([np.log(found.win_rate.value / (1.0 - found.win_rate.value)), found.slope])
    assert x.T @ (wins - expit(x @ optimum)) - RIDGE * optimum == pytest.approx(np.zeros(2), abs=1e-6)
    assert found.slope > 50.0 and found.win_rate.low < 0.5 < found.win_rate.high


def test_a_clean_sweep_keeps_the_plain_rates_interval():
    found = length_controlled(np.ones(20), np.arange(20), np.arange(20) % 7, range(20), 0.95)
    assert found.win_rate == win_rate(np.ones(20), range(20), 0.95) and found.win_rate.low > 0.8
    assert found.slope == 0.0


def test_no_rate_at_equal_length_of_two_prompts_or_where_all_differ_alike():
    assert length_controlled([1.0, 0.0, 1.0], [5, 6, 9], [1, 2, 3], list("aab"), 0.95) is None
    assert length_controlled([1.0, 0.0, 1.0], [5, 6, 7], [1, 2, 3], list("abc"), 0.95) is None
