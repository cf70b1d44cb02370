"""Paired tests against McNemar's and enumeration; Holm against R's p.adjust; n against its closed form."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest

from epsilon_dpo.report.page.paired import holm, n_needed, outcome_of, sign_flip, verdicts


def test_without_ties_it_is_mcnemars_exact_test():
    """Ten discordant prompts, eight for the first: 2 (45 + 10 + 1) / 1024."""
    differences = [1.0] * 8 + [-1.0] * 2 + [0.0] * 30
    assert sign_flip(differences, range(40)) == pytest.approx(112 / 1024, rel=1e-12)
    for first, second in [(0, 1), (3, 3), (40, 17), (300, 200)]:
        p = sign_flip([1.0] * first + [-1.0] * second, range(first + second))
        assert p == pytest.approx(binomtest(first, first + second).pvalue, rel=1e-9)


def test_ties_and_several_answers_by_hand():
    """Prompt totals 1.5, 1, -0.5, 0: of the eight signs of three, four sums reach |2|: ±3, ±2."""
    differences, prompts = [1.0, 0.5, 1.0, -1.0, 0.5, 0.5, -0.5], ["a", "a", "b", "c", "c", "d", "d"]
    assert sign_flip(differences, prompts) == 0.5


def test_the_recursion_agrees_with_enumeration():
    generator = np.random.default_rng(0)
    halves = generator.choice([-1.0, -0.5, 0.0, 0.5, 1.0], 12, p=[0.1, 0.1, 0.2, 0.2, 0.4])
    every = np.abs(np.array(list(product([-1, 1], repeat=12))) @ halves)
    exact = np.mean(every >= abs(halves.sum()))
    assert sign_flip(halves, range(12)) == pytest.approx(exact, rel=1e-12)


def test_what_are_no_differences_of_wins_is_refused():
    with pytest.raises(ValueError, match="multiples of a half"):
        sign_flip([0.5, 1 / 3], ["a", "b"])


def test_p_is_never_zero_and_one_for_no_difference():
    assert 0.0 < sign_flip(np.ones(3000), range(3000)) < 1e-300
    assert sign_flip([0.5, -0.5], ["a", "b"]) == sign_flip([0.0, 0.0], ["a", "b"]) == 1.0


def test_swapping_the_runs_keeps_p():
    differences, prompts = np.random.default_rng(3).choice([-1.0, 0.0, 0.5, 1.0], 60), np.repeat(range(20), 3)
    assert sign_flip(-differences, prompts) == sign_flip(differences, prompts)


def test_holm_equals_r():
    """R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02] and holm([]) == []


def test_n_needed_by_hand():
    """Mean 0.1, sd 0.5: ((1.959964 + 0.841621) * 5)^2 = 196.2; a twice as large difference takes a quarter."""
    differences = 0.1 + 0.5 * math.sqrt(99 / 100) * np.repeat([-1.0, 1.0], 50)
    assert n_needed(differences, 0.95, 0.8) == 197
    assert n_needed(differences + 0.1, 0.95, 0.8) == 50
    assert n_needed(-differences, 0.95, 0.8) == 197
    assert n_needed([0.5, -0.5], 0.95, 0.8) is None
    assert n_needed([0.1, 0.2, -0.3], 0.95, 0.8) is None, "its mean is 0 but for rounding"
    assert n_needed(np.ones(9), 0.95, 0.8) == 6, "2^-5 is below 0.05, 2^-4 is not"


def test_verdicts_of_three_runs():
    """b differs from a on three of 100 prompts; c loses to a on 20 and wins none: p = 2 / 2^20, times 3 for Holm."""
    a = np.repeat([1.0, 0.0], 50)
    b, c = a.copy(), a.copy()
    b[0], b[1], c[:20] = 0.0, 0.5, 0.0
    b[99] = 1.0
    ab, ac, bc = verdicts({"a": a, "b": b, "c": c}, np.arange(100), 0.95, 0.8)
    assert (ac.first, ac.second, outcome_of(ac.together)) == ("a", "c", "better")
    assert ac.p_value == pytest.approx(2**-19) and ac.p_adjusted == pytest.approx(3 * 2**-19)
    assert ac.difference.value == pytest.approx(0.2) and ac.difference.low < 0.2 < ac.difference.high
    assert ac.difference.n == 100 and ac.n_needed is not None and ac.n_needed < 100
    assert ac.n_needed == n_needed(a - c, 1.0 - 0.05 / 3, 0.8), "one of three pairs has a third of the level"
    assert (outcome_of(ab.together), ab.difference.value) == ("cannot be told apart", pytest.approx(0.005))
    assert ab.difference.low < 0.0 < ab.difference.high and ab.n_needed is not None and ab.n_needed > 100
    assert (bc.first, bc.second, outcome_of(bc.together)) == ("b", "c", "better")
    ca = verdicts({"c": c, "a": a}, np.arange(100), 0.95, 0.8)[0]
    assert ca.n_needed == n_needed(c - a, 0.95, 0.8) < ac.n_needed
    assert (outcome_of(ca.together), ca.difference.low) == ("worse", pytest.approx(-ac.difference.high, abs=0.01))


def test_two_equal_runs_need_no_number_of_prompts():
    wins = np.tile([1.0, 0.5], 10)
    [verdict] = verdicts({"a": wins, "b": wins}, np.repeat(range(10), 2), 0.95, 0.8)
    assert outcome_of(verdict.together) == "cannot be told apart"
    assert verdict.p_adjusted == 1.0 and verdict.n_needed is None
    assert verdict.difference.low == -verdict.difference.high < 0.0, "ten prompts do not show that none would differ"
    assert verdict.difference == verdict.together, "of one pair alone, and of all pairs together, which are this one"


def test_the_verdict_is_the_corrected_one():
    """Seven to one discordant: p = 0.0703 alone decides at 0.9, but not as one of three pairs."""
    a, b = np.zeros(40), np.zeros(40)
    a[:7], b[7] = 1.0, 1.0
    [alone] = verdicts({"a": a, "b": b}, np.arange(40), 0.9, 0.8)
    assert alone.p_value == pytest.approx(18 / 256) and outcome_of(alone.together) == "better"
    among = verdicts({"a": a, "b": b, "b2": b}, np.arange(40), 0.9, 0.8)
    assert [outcome_of(verdict.together) for verdict in among] == ["cannot be told apart"] * 3
    assert among[0].p_adjusted == pytest.approx(3 * 18 / 256)


def test_what_it_takes_is_of_the_difference_that_is_stated():
    """A prompt with 105 answers, all ahead, and 19 with five, one behind: by answers ahead, by prompts behind."""
    prompts = np.repeat(np.arange(20), [105] + [5] * 19)
    ahead = np.concatenate([np.ones(105), np.tile([-1.0, 0.0, 0.0, 0.0, 0.0], 19)])
    (found,) = verdicts({"a": ahead.clip(0.0), "b": (-ahead).clip(0.0)}, prompts, 0.95, 0.8)
    of_each = [found.difference.value + (20 / 40) * total for total in (21 * 0.57, *[-0.63] * 19)]
    assert found.difference.value == pytest.approx(0.43) == np.mean(of_each)
    assert found.n_needed == n_needed(of_each, 0.95, 0.8) > 29
