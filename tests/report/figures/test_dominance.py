"""A policy is dominated where the data say so on both axes, not where a point lies above and left of it."""

import numpy as np

from epsilon_dpo.report.figures.dominance import dominated

PROMPTS = 200
ONE_EACH = np.ones(PROMPTS)
HARD = np.random.default_rng(0).random(PROMPTS)


def wins(share: float) -> np.ndarray:
    """So many of the prompts are won, the easiest ones."""
    return (share > HARD).astype(float)


def kl(mean: float) -> np.ndarray:
    return mean + np.random.default_rng(1).normal(0.0, 0.3, PROMPTS)


def test_more_wins_at_less_kl_beyond_the_intervals() -> None:
    assert dominated([kl(1.0), kl(2.0)], [wins(0.8), wins(0.6)], ONE_EACH, 0.95).tolist() == [False, True]
    assert dominated([kl(2.0), kl(1.0)], [wins(0.6), wins(0.8)], ONE_EACH, 0.95).tolist() == [True, False]


def test_one_axis_within_the_noise_is_not_enough() -> None:
    noisy = kl(1.0) + np.random.default_rng(2).normal(0.02, 0.5, PROMPTS)
    assert noisy.mean() > kl(1.0).mean()
    assert not dominated([kl(1.0), noisy], [wins(0.8), wins(0.6)], ONE_EACH, 0.95).any()
    assert not dominated([kl(1.0), kl(2.0)], [wins(0.61), wins(0.6)], ONE_EACH, 0.95).any()


def test_a_trade_equal_policies_and_a_lone_one_are_not_dominated() -> None:
    assert not dominated([kl(1.0), kl(2.0)], [wins(0.6), wins(0.8)], ONE_EACH, 0.95).any()
    assert not dominated([kl(1.0), kl(1.0)], [wins(0.6), wins(0.6)], ONE_EACH, 0.95).any()
    assert (
        dominated([kl(1.0)], [wins(0.6)], ONE_EACH, 0.95).tolist() == [False]
        and dominated([], [], [], 0.95).tolist() == []
    )


def test_a_prompt_with_more_answers_counts_for_more() -> None:
    """By prompts the first wins more; the tables count answers, half of which are to the one prompt that it loses."""
    first, second, answers = wins(0.8), wins(0.6), np.ones(PROMPTS, int)
    first[0], second[0], answers[0] = 0.0, 1.0, PROMPTS
    costs, gains = [kl(1.0), kl(2.0)], [first, second]
    assert np.average(first, weights=answers) < np.average(second, weights=answers)
    assert dominated(costs, gains, ONE_EACH, 0.95)[1] and not dominated(costs, gains, answers, 0.95).any()


def test_among_many_it_takes_more() -> None:
    """Nine prompts of 200 decide between two policies, and no longer as one pair of many."""
    one, other = wins(0.5), wins(0.5)
    other[np.flatnonzero(other)[:9]] = 0.0
    costs, gains = [kl(1.0), kl(2.0)], [one, other]
    assert dominated(costs, gains, ONE_EACH, 0.95).tolist() == [False, True]
    assert not dominated(costs + [kl(1.0)] * 8, gains + [one] * 8, ONE_EACH, 0.95)[:2].any()
