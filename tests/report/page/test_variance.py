"""The variance of a win rate against arithmetic by hand, one-way formulas, and the design's own symmetries."""

import numpy as np
import pytest
from scipy.stats import sem, t

from epsilon_dpo.analysis.intervals.rates import Estimate
from epsilon_dpo.analysis.intervals.win_rates import win_rate
from epsilon_dpo.report.page.variance import split_variance


def test_two_seeds_two_prompts_by_hand():
    """Cells 1, 0 / 1, 1: mean 3/4, seeds 1/2 and 1, prompts 1 and 1/2, interaction ±1/4.

    Mean squares (one degree of freedom each) 1/4, 1/4, 1/4: nothing is left for seeds and prompts, and the win rate's
    variance is 1/4 over four cells.
    """
    split = split_variance(np.array([[1.0, 0.0], [1.0, 1.0]])[..., None, None])
    assert split.win_rate == 0.75
    assert split.training is not None and split.training.raw == 0.0 and split.training.levels == 2
    assert split.standard_error == 0.25 and split.prompts == 2


def test_effects_of_all_five_sources_by_hand():
    """Effects whose squares add up over 16 numbers: seeds ±1, prompts ±2, interaction ±.5, answers ±.25, judgements
    ±.125; and an order's ±3, which is none of them."""
    sign = np.array([-1.0, 1.0])
    s, p, c, o = (sign.reshape(shape) for shape in [(2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2)])
    y = 10 + s + 2 * p + 0.5 * s * p + 0.25 * c + 0.125 * s * c * o + 3 * o
    split = split_variance(y)
    interaction, training, prompt = 16 * 0.5**2, 16 * 1.0**2, 16 * 2.0**2  # one degree of freedom each
    assert split.win_rate == 10.0
    assert split.training is not None and split.training.raw == pytest.approx((training - interaction) / 8)
    assert split.training.levels == 2 and split.training.of_win_rate == pytest.approx((training - interaction) / 16)
    assert split.standard_error**2 == pytest.approx((training + prompt - interaction) / 16)


def test_neither_mean_square_is_taken_below_the_interaction():
    """Seeds ±.5, prompts ±.25, interaction ±1 over 16 numbers: the interaction's own mean square is left."""
    s, p = np.array([-1.0, 1.0]).reshape(2, 1, 1, 1), np.array([-1.0, 1.0]).reshape(1, 2, 1, 1)
    split = split_variance(np.broadcast_to(0.5 * s + 0.25 * p + s * p, (2, 2, 2, 2)))
    assert split.training is not None and split.training.raw == (16 * 0.25 - 16) / 8
    assert split.standard_error == 1.0


def test_a_negative_component_is_reported_as_0_with_its_raw_value():
    wins = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])[..., None, None]
    training = split_variance(wins).training
    assert training is not None and training.raw < 0.0
    assert training.variance == training.of_win_rate == 0.0


def test_one_seed_is_the_standard_error_of_prompt_means():
    wins = np.random.default_rng(0).choice([0.0, 0.5, 1.0], (1, 30, 4, 2))
    split = split_variance(wins)
    means = wins.mean((0, 2, 3))
    assert split.training is None
    assert split.standard_error == pytest.approx(sem(means))
    assert split.interval(0.95) == pytest.approx(t.interval(0.95, 29, means.mean(), sem(means)))


@pytest.mark.parametrize("shape", [(3, 5, 2, 2), (3, 5, 1, 1), (1, 5, 2, 2), (1, 5, 1, 1)])
def test_one_seed_says_nothing_of_training(shape):
    split = split_variance(np.random.default_rng(1).normal(size=shape))
    assert (split.training is None) == (shape[0] == 1)
    assert split.standard_error > 0.0


def test_few_seeds_widen_the_interval_by_their_own_t():
    """Three seeds that differ by 0.3 and nothing else: the t interval of three numbers."""
    seeds = np.array([0.3, 0.6, 0.9])
    split = split_variance(np.broadcast_to(seeds[:, None, None, None], (3, 50, 2, 2)))
    assert split.interval(0.95) == pytest.approx(t.interval(0.95, 2, 0.6, sem(seeds)))


def test_a_position_bias_is_no_noise():
    wins = np.random.default_rng(2).normal(size=(2, 6, 3, 2))
    biased = split_variance(wins + np.array([0.4, -0.4]))
    assert biased.standard_error == pytest.approx(split_variance(wins).standard_error)
    assert biased.training.raw == pytest.approx(split_variance(wins).training.raw)


def test_equal_wins_have_no_variance():
    split = split_variance(np.ones((2, 3, 2, 2)))
    assert split.standard_error == 0.0 and split.interval(0.95) == (1.0, 1.0)


def test_the_interval_reaches_at_least_as_far_as_that_over_prompts():
    """Each end by itself; what the seeds add comes on top: means .5, .6, .7, a variance of .01 over three."""
    over_prompts = Estimate(0.6, 0.5, 0.61, 50)
    equal = split_variance(np.full((3, 50, 1, 1), 0.6))
    assert equal.interval(0.95, over_prompts) == pytest.approx((0.5, 0.61))
    apart = split_variance(np.broadcast_to(np.array([0.5, 0.6, 0.7])[:, None, None, None], (3, 50, 1, 1)))
    seeds = t.ppf(0.975, 2) ** 2 * 0.01 / 3
    ends = 0.6 - (0.1**2 + seeds) ** 0.5, 0.6 + (0.01**2 + seeds) ** 0.5
    assert apart.interval(0.95, over_prompts) == pytest.approx(ends)
    wide = split_variance(np.random.default_rng(0).random((1, 20, 1, 1)))
    assert wide.interval(0.95, Estimate(wide.win_rate, wide.win_rate, wide.win_rate, 20)) == wide.interval(0.95)


@pytest.mark.parametrize("rate", [0.97, 0.99])
def test_it_covers_where_few_prompts_are_not_won(rate):
    """Three seeds that half of the time win the same of 60 prompts. Student's t alone covered 81 and 74 %."""
    generator, n, prompts = np.random.default_rng(0), 150, np.tile(np.arange(60), 3)
    covered = 0
    for _ in range(n):
        shared = generator.random(60) < 0.5
        wins = np.where(shared, generator.random(60), generator.random((3, 60))) < rate
        low, high = split_variance(wins[..., None, None]).interval(0.95, win_rate(wins.ravel(), prompts, 0.95))
        covered += low <= rate <= high
    assert covered / n >= 0.95


def test_an_unbalanced_design_is_refused():
    with pytest.raises(ValueError, match="at least two prompts"):
        split_variance(np.ones((3, 1, 2, 2)))
    with pytest.raises(ValueError, match="must be"):
        split_variance(np.ones((3, 4)))
    with pytest.raises(ValueError, match="empty cells"):
        split_variance(np.full((2, 2, 1, 1), np.nan))
