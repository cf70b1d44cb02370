"""Staircases and areas by hand, and against counting on a fine grid."""

import numpy as np
import pytest

from epsilon_dpo.analysis.intervals.rates import per_prompt, student_t
from epsilon_dpo.analysis.intervals.win_rates import win_rate
from epsilon_dpo.report.figures.frontier import (
    Reference,
    _weighed,
    attained,
    confidence_of_each,
    frontier,
    hypervolume,
)

KL, WINS = np.array([2.0, 1.0, 3.0, 4.0]), np.array([0.7, 0.6, 0.65, 0.8])


def test_the_staircase():
    at = np.array([0.0, 1.0, 1.9, 2.0, 3.5, 9.0])
    assert attained(KL, WINS, at, 0.5).tolist() == [0.5, 0.6, 0.6, 0.7, 0.7, 0.8]
    assert attained(KL, WINS, at, 0.65).tolist() == [0.65, 0.65, 0.65, 0.7, 0.7, 0.8]


def test_a_policy_is_on_the_staircase_at_its_own_kl():
    """Whichever way its prompts were added up: (.3 + .2 + .1) / 3 and (.1 + .2 + .3) / 3 differ in the last bit."""
    one, other = (0.3 + 0.2 + 0.1) / 3, (0.1 + 0.2 + 0.3) / 3
    assert one < other
    assert attained(np.array([other]), np.array([0.7]), np.array([one]), 0.5).tolist() == [0.7]


def test_the_area_by_hand():
    """Steps 1..2 at .1, 2..4 at .2, 4..5 at .3 above one half; what lies beyond the reference adds nothing."""
    assert hypervolume(KL, WINS, Reference(5.0, 0.5)) == pytest.approx(0.1 + 0.4 + 0.3)
    assert hypervolume(KL, WINS, Reference(3.5, 0.5)) == pytest.approx(0.1 + 1.5 * 0.2)
    assert hypervolume(KL, WINS, Reference(5.0, 0.65)) == pytest.approx(2 * 0.05 + 0.15)
    assert hypervolume(KL, WINS, Reference(0.5, 0.5)) == hypervolume(KL, WINS, Reference(5.0, 0.9)) == 0.0
    assert hypervolume(np.array([-0.3]), np.array([0.6]), Reference(1.0, 0.5)) == pytest.approx(0.1)


def test_the_area_is_that_under_the_staircase():
    generator, reference = np.random.default_rng(0), Reference(3.0, 0.5)
    kl, wins = generator.gamma(2.0, 1.0, (20, 6)), generator.uniform(0.3, 1.0, (20, 6))
    grid = (np.arange(30_000) + 0.5) / 10_000
    for costs, gains in zip(kl, wins, strict=True):
        counted = (attained(costs, gains, grid, reference.win_rate) - reference.win_rate).mean() * reference.kl
        assert hypervolume(costs, gains, reference) == pytest.approx(counted, abs=1e-3)


def test_a_dominated_point_adds_no_area():
    kept = np.array([True, True, False, True])  # the third costs more than the first and wins less
    reference = Reference(5.0, 0.5)
    assert hypervolume(KL, WINS, reference) == hypervolume(KL[kept], WINS[kept], reference)


def test_a_method_with_its_band():
    generator = np.random.default_rng(1)
    kl = generator.gamma(4.0, [[0.25], [0.5], [1.0]], (3, 400))
    wins = (generator.random((3, 400)) < [[0.6], [0.7], [0.8]]).astype(float)
    at = np.linspace(0.0, 5.0, 251)
    found = frontier(kl, wins, np.ones(400), at, Reference(5.0, 0.5), 0.95, 1000, 2)
    assert np.array_equal(found.win_rate, attained(kl.mean(1), wins.mean(1), at, 0.5))
    assert np.all(found.low <= found.win_rate) and np.all(found.win_rate <= found.high)
    assert found.low[-1] < wins[2].mean() < found.high[-1] and found.win_rate[0] == found.high[0] == 0.5
    assert np.all(np.diff(found.low) >= 0.0) and np.all(np.diff(found.high) >= 0.0)
    area = found.hypervolume
    assert area.value == hypervolume(kl.mean(1), wins.mean(1), Reference(5.0, 0.5)) and area.n == 400
    assert area.low < area.value < area.high
    near = np.searchsorted(at, kl[0].mean())  # where the first step lies is uncertain, too
    assert found.low[near] == 0.5 < found.high[near - 1]


def test_one_point_of_known_kl_has_the_band_of_its_win_rate():
    wins = np.repeat([[1.0, 0.0]], 50, axis=1)
    found = frontier(np.ones((1, 100)), wins, np.ones(100), [0.9, 1.0], Reference(3.0, 0.25), 0.95, 4000, 0)
    assert (found.low[0], found.high[0]) == (0.25, 0.25)
    assert found.high[1] - found.low[1] == pytest.approx(2 * 1.984 * np.sqrt(0.25 / 99), rel=0.06)
    assert found.hypervolume.high == pytest.approx(2.0 * (found.high[1] - 0.25))


def test_the_ends_are_what_all_bad_and_all_good_ends_attain():
    generator = np.random.default_rng(3)
    kl, wins = generator.gamma(4.0, [[0.25], [0.5]], (2, 50)), (generator.random((2, 50)) < 0.7).astype(float)
    grid, reference = np.array([0.5, 1.0, 1.1, 2.0, 3.0]), Reference(3.0, 0.5)
    found = frontier(kl, wins, np.ones(50), grid, reference, 0.9, 500, 4)
    each = confidence_of_each(np.concatenate([kl, wins]), 0.9, 500, 4)
    reach = student_t(49, each) * kl.std(1, ddof=1) / 50**0.5
    rates = [win_rate(won, range(50), each) for won in wins]
    low = kl.mean(1) + reach, np.array([rate.low for rate in rates])
    high = kl.mean(1) - reach, np.array([rate.high for rate in rates])
    assert np.array_equal(found.low, attained(*low, grid, 0.5))
    assert np.array_equal(found.high, attained(*high, grid, 0.5))
    area = found.hypervolume
    assert (area.low, area.high) == (hypervolume(*low, reference), hypervolume(*high, reference))


def test_a_prompt_with_more_answers_counts_for_more():
    """A step is where the policies' own win rates and KLs are, which are means over answers: 21 to one prompt."""
    answers = np.array([21] + [1] * 19)
    kl = np.array([[4.0] + [1.0] * 19, [0.5] + [0.4] * 19])
    wins = np.array([[1.0] + [0.5] * 19, [0.5] * 20])
    found = frontier(kl, wins, answers, [2.574, 2.576], Reference(3.0, 0.4), 0.95, 500, 0)
    assert found.win_rate.tolist() == pytest.approx([0.5, 0.7625])
    own = win_rate(np.repeat(wins[0], answers), np.repeat(np.arange(20), answers), 0.95)
    assert found.high[1] >= own.high and found.hypervolume.low <= found.hypervolume.value
    labels = np.repeat(np.arange(20), answers)
    over_answers = per_prompt(np.repeat(kl[0], answers).tolist(), labels.tolist())
    assert _weighed(kl, answers)[0].tolist() == pytest.approx(over_answers)


def test_means_that_hold_together_are_stated_the_more_confidently_the_less_they_share():
    """One mean: as it is. Copies: as one. Unrelated ones: the k-th root. Those without spread are unrelated."""
    one = np.random.default_rng(0).normal(size=(1, 20))
    orthogonal = np.kron([[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]], np.ones(5))
    assert confidence_of_each(one, 0.95, 100_000, 1) == pytest.approx(0.95, abs=0.003)
    assert confidence_of_each(np.repeat(one, 4, 0), 0.95, 100_000, 1) == pytest.approx(0.95, abs=0.003)
    assert confidence_of_each(orthogonal[1:], 0.95, 100_000, 1) == pytest.approx(0.95 ** (1 / 2), abs=0.003)
    assert confidence_of_each(orthogonal, 0.95, 100_000, 1) == pytest.approx(0.95 ** (1 / 3), abs=0.003)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\[points, prompts\]"):
        frontier(np.ones((2, 5)), np.ones((2, 4)), np.ones(5), [1.0], Reference(3.0, 0.5), 0.95, 10, 0)
    with pytest.raises(ValueError, match="at least two"):
        frontier(np.ones((2, 1)), np.ones((2, 1)), np.ones(1), [1.0], Reference(3.0, 0.5), 0.95, 10, 0)
