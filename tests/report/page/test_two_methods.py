"""Methods compared over seeds and prompts: intervals by hand, and the level of the test where both are equal."""

import math

import numpy as np
import pytest
from scipy.stats import t

from epsilon_dpo.analysis.intervals.differences import difference as of_runs
from epsilon_dpo.report.page.two_methods import difference


def test_seeds_that_differ_and_prompts_that_do_not():
    """Seeds' means .3, .6, .9 against .5, .5: sd .3 over three seeds. Prompts that all differ by .1 leave the spread of
    the two imaginary ones, at 1 and -1."""
    first = np.broadcast_to(np.array([0.3, 0.6, 0.9])[:, None, None], (3, 40, 2))
    found = difference(first, np.full((2, 40, 2), 0.5))
    centre = 40 * 0.1 / 42
    rest = ((40 * 0.1**2 + 2) / 42 - centre**2) / 42
    half_width = math.sqrt(t.ppf(0.975, 2) ** 2 * 0.3**2 / 3 + t.ppf(0.975, 39) ** 2 * rest)
    assert found.interval(0.95) == pytest.approx((centre - half_width, centre + half_width))
    assert found.training_share == pytest.approx(0.03 / (0.03 + rest))


def test_prompts_that_differ_and_seeds_that_do_not():
    """Both methods win the same prompts, the first 10 of 40 more: the interval that two runs have."""
    wins = np.repeat([1.0, 0.0], [25, 15])
    first = np.broadcast_to(np.repeat([1.0, 0.0], [35, 5])[None, :, None], (3, 40, 1))
    found = difference(first, np.broadcast_to(wins[None, :, None], (2, 40, 1)))
    runs = of_runs(np.repeat([0.0, 1.0, 0.0], [25, 10, 5]), range(40), 0.95)
    assert found.value == 0.25 and found.interval(0.95) == pytest.approx((runs.low, runs.high))
    assert found.training_share == 0.0


def test_few_differing_prompts_are_not_taken_for_certain():
    """Five of 256 that differ, all one way, in every seed: .0625 by the exact test of one seed. Two of two: .5."""
    fewer, more = np.zeros((2, 256, 1)), np.zeros((2, 256, 1))
    more[:, :5] = 1.0
    found = difference(more, fewer)
    assert found.interval(0.95)[0] < 0.0 and 0.05 < found.p_value < 0.07
    found = difference(np.ones((2, 2, 1)), np.zeros((2, 2, 1)))
    assert found.value == 1.0 and found.interval(0.95) == (-1.0, 1.0) and found.p_value > 0.4


def test_the_p_value_is_the_level_whose_interval_ends_at_zero():
    generator = np.random.default_rng(0)
    found = difference(generator.random((3, 30, 2)) + 0.1, generator.random((4, 30, 2)))
    assert 1e-6 < found.p_value < 0.5
    assert found.interval(1.0 - found.p_value)[0] == pytest.approx(0.0, abs=1e-9)
    equal = np.broadcast_to(np.array([0.0, 1.0])[None, :, None], (2, 2, 1))
    assert difference(equal, equal).p_value == 1.0


def test_a_tie_whose_sums_round_apart_is_a_tie():
    """Thirds do not add up to 0, and near 0 no interval ends: the report was not made."""
    first, second = np.zeros((3, 256, 1)), np.zeros((3, 256, 1))
    first[:, 0], first[0, 128] = 1.0, 1.0
    second[:2, 0], second[:2, 128] = 1.0, 1.0
    found = difference(first, second)
    assert 0.0 < abs(found.centre) < 1e-15 and found.p_value == 1.0


def test_one_training_and_other_prompts_are_refused():
    with pytest.raises(ValueError, match="at least two seeds each"):
        difference(np.ones((1, 5, 1)), np.ones((3, 5, 1)))
    with pytest.raises(ValueError, match="of the same prompts"):
        difference(np.ones((3, 5, 1)), np.ones((3, 6, 1)))


@pytest.mark.parametrize(
    ("seeds", "training", "highest"),
    [
        ((3, 3), (0.05, 0.05), 0.05),
        ((3, 3), (0.01, 0.1), 0.06),
        ((5, 5), (0.0, 0.0), 0.05),
        ((2, 5), (0.1, 0.01), 0.08),
    ],
)
def test_it_keeps_its_level_between_equal_methods(seeds, training, highest):
    """Prompts are shared, so are half of their difficulties; a paired test over prompts alone takes luck for merit."""
    generator, n, prompts = np.random.default_rng(1), 1000, 60
    rejected, naive = 0, 0
    for _ in range(n):
        shared = generator.normal(0.0, 0.3, prompts)
        wins = [
            0.6
            + shared
            + generator.normal(0.0, 0.15, prompts)
            + generator.normal(0.0, spread, (count, 1))
            + generator.normal(0.0, 0.3, (count, prompts))
            for count, spread in zip(seeds, training, strict=True)
        ]
        low, high = difference(*(method[..., None] for method in wins)).interval(0.95)
        rejected += not low <= 0.0 <= high
        apart = wins[0].mean(0) - wins[1].mean(0)
        naive += abs(apart.mean()) > t.ppf(0.975, prompts - 1) * apart.std(ddof=1) / math.sqrt(prompts)
    margin = 3.0 * math.sqrt(highest * (1.0 - highest) / n)
    assert rejected / n <= highest + margin
    assert max(training) == 0.0 or naive / n > highest + margin
