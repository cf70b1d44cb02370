"""Intervals of differences against Bonett and Price's formula by hand, and in the corners where few prompts differ."""

import math

import numpy as np
import pytest
from scipy.stats import t

from epsilon_dpo.analysis.intervals.differences import difference, difference_of_totals, of_each


def test_it_is_the_adjusted_wald_interval_of_paired_proportions():
    """59 won by both, 6 by the first, 16 by the second, 80 by none, and one more of each: -10 / 163 with variance
    (24 / 163 - (10 / 163)^2) / 163."""
    values = [0.0] * 59 + [1.0] * 6 + [-1.0] * 16 + [0.0] * 80
    found = difference(values, range(161), 0.95)
    half_width = t.ppf(0.975, 160) * math.sqrt((24 / 163 - (10 / 163) ** 2) / 163)
    assert found.value == pytest.approx(-10 / 161) and found.n == 161
    assert (found.low, found.high) == pytest.approx((-10 / 163 - half_width, -10 / 163 + half_width))
    swapped = difference([-value for value in values], range(161), 0.95)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))


def test_few_prompts_that_differ_are_not_taken_for_certain():
    """McNemar's exact test: p = 0.125 for four prompts all one way, 0.03 for six; none is no proof of equality."""
    for differing, decided in [(0, False), (4, False), (5, False), (6, True)]:
        found = difference([1.0] * differing + [0.0] * (256 - differing), range(256), 0.95)
        assert (found.low > 0.0) == decided and found.high > differing / 256
    assert difference(np.zeros(256), range(256), 0.95).low < -0.005


def test_ends_stay_within_what_there_can_be_and_hold_the_value():
    found = difference(np.ones(9), range(9), 0.95)
    assert 0.0 < found.low < found.value == found.high == 1.0
    assert difference(np.ones(9), range(9), 0.3).high == 1.0


def test_several_answers_to_a_prompt_are_one_prompt():
    one = difference([1.0, 0.0, -1.0, 1.0], list("abcd"), 0.95)
    assert difference(np.repeat([1.0, 0.0, -1.0, 1.0], 3), np.repeat(list("abcd"), 3), 0.95) == one


def test_prompts_of_unequally_many_records_count_by_their_records():
    """Of 3, 1 and 2 records with sums 3, 0 and -1, again and again: the mean over records is v = 1/3, and a prompt's
    part in it, v + (its sum - v times its records) / 2, is 4/3, 1/6 or -1/2: mean v, mean of squares 74/108."""
    three = difference_of_totals(np.array([3.0, 0.0, -1.0]), np.array([3.0, 1.0, 2.0]), 0.95, bound=None)
    half_width = t.ppf(0.975, 2) * math.sqrt((74 / 108 - 1 / 9) * 3 / 2 / 3)
    assert (three.value, three.low, three.high) == pytest.approx((1 / 3, 1 / 3 - half_width, 1 / 3 + half_width))
    prompts = [f"{n}{prompt}" for n in range(40) for prompt in "aaabcc"]
    found = difference([1.0, 1.0, 1.0, 0.0, -1.0, 0.0] * 40, prompts, 0.95)
    variance = (120 * 74 / 108 + 2) / 122 - (40 / 122) ** 2  # with two more prompts, 1 and -1
    half_width = t.ppf(0.975, 119) * math.sqrt(variance / 122)
    assert (found.value, found.low, found.high) == pytest.approx((1 / 3, 40 / 122 - half_width, 40 / 122 + half_width))


def test_without_a_bound_it_is_students_interval():
    values = np.random.default_rng(0).gamma(2.0, 1.0, 30)
    found = difference_of_totals(values, np.ones(30), 0.9, bound=None)
    expected = t.interval(0.9, 29, values.mean(), values.std(ddof=1) / math.sqrt(30))
    assert (found.low, found.high) == pytest.approx(expected)
    assert difference_of_totals(np.ones(5), np.ones(5), 0.9, bound=None).low == 1.0


def test_many_intervals_are_each_of_a_higher_confidence():
    assert of_each(0.95, 3) == pytest.approx(1.0 - 0.05 / 3)
    assert of_each(0.95, 1) == of_each(0.95, 0) == pytest.approx(0.95)


def test_one_prompt_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        difference([1.0, 0.0], ["a", "a"], 0.95)
