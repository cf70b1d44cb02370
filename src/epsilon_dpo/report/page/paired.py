"""Two runs on the same prompts: which is better, or how many prompts it would take to tell.

The null hypothesis is that the two are exchangeable: swapping their answers to a prompt changes no distribution. Then
each prompt's difference has either sign with equal chance, and the test flips signs (Fisher, The Design of Experiments
(1935), section 21). It flips entire prompts, so that several answers per prompt stay together.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from epsilon_dpo.analysis.intervals.bootstrap import totals_by_prompt
from epsilon_dpo.analysis.intervals.differences import difference, of_each
from epsilon_dpo.analysis.intervals.rates import Estimate, per_prompt
from epsilon_dpo.pipeline.stage.files import Row

Outcome = Literal["better", "worse", "cannot be told apart"]
ROUNDING = 1e-12  # relative: sums that differ by less are equal


@dataclass(frozen=True)
class Verdict:
    """What the records say of `first` against `second`.

    Attributes:
        difference: that of mean wins, first - second, over `difference.n` prompts. Its interval is of this pair alone,
            and may leave out 0 where the outcome is open.
        together: the same difference; the intervals of all pairs judged together hold at once. It reaches to 0 where
            the adjusted p, which is exact, does not decide, so that interval and exact test must both decide for an
            outcome: among all pairs judged together, a false one has at most chance 1 - confidence.
        p_value, p_adjusted: result of `sign_flip`, before and after Holm's correction for the pairs judged together.
        n_needed: prompts that a difference of this size takes to be decided among as many pairs, at the level that Holm
            gives the clearest of them; None where there was no difference.
    """

    first: str
    second: str
    difference: Estimate
    together: Estimate
    p_value: float
    p_adjusted: float
    n_needed: int | None


def verdicts(wins: Mapping[str, ArrayLike], prompts: ArrayLike, confidence: float, power: float) -> list[Verdict]:
    """Every two runs, in the order given, corrected for each other.

    Args:
        wins: each run's, [n], in the same order of prompts.
        prompts: [n], each record's prompt; several records of one prompt may be in any order.
        power: chance of a verdict on a pair that `n_needed` prompts give, about: by the normal distribution.

    Raises:
        ValueError: the lengths differ, there are fewer than two prompts, or a difference is no multiple of a half.
    """
    pairs = list(combinations(wins, 2))
    found = [np.asarray(wins[first], float) - np.asarray(wins[second], float) for first, second in pairs]
    p_values = [sign_flip(differences, prompts) for differences in found]
    each = of_each(confidence, len(pairs))
    results = []
    for (first, second), differences, p_value, adjusted in zip(pairs, found, p_values, holm(p_values), strict=True):
        alone = difference(differences, prompts, confidence)
        together = difference(differences, prompts, each)
        if adjusted > 1.0 - confidence:
            together = replace(together, low=min(0.0, together.low), high=max(0.0, together.high))
        needed = n_needed(per_prompt(differences.tolist(), np.asarray(prompts).tolist()), each, power)
        results.append(Verdict(first, second, alone, together, p_value, adjusted, needed))
    return results


def outcome_of(together: Estimate) -> Outcome:
    """Which of the two wins more often, as far as the interval leaves out 0."""
    if together.low <= 0.0 <= together.high:
        return "cannot be told apart"
    return "better" if together.low > 0.0 else "worse"


def measured(alone: Estimate, together: Estimate, p: float, p_holm: float) -> Row:
    """Columns of a table of comparisons: a difference with the interval for this pair alone and for all pairs together,
    its p before and after Holm's correction, and the outcome."""
    return {
        "difference": alone.value,
        "low_together": together.low,
        "high_together": together.high,
        "low": alone.low,
        "high": alone.high,
        "n": alone.n,
        "p": p,
        "p_holm": p_holm,
        "outcome": outcome_of(together),
    }


def sign_flip(differences: ArrayLike, prompts: ArrayLike) -> float:
    """Two-sided p of a mean difference as far from 0 as this one, under random signs of the prompts' differences.

    Exact, by the null distribution's recursion (Pagano and Tritchler, JASA 78 (1983)); with one decided record per
    prompt that is McNemar's exact test. Never 0.

    Args:
        differences: [n], first - second, one per record: multiples of a half, as differences of wins are.
        prompts: [n], each record's prompt.

    Raises:
        ValueError: the lengths differ, or a prompt's differences do not add up to a multiple of a half.
    """
    totals, _ = totals_by_prompt(differences, prompts)
    doubled = 2.0 * totals
    if np.any(doubled != np.round(doubled)):
        raise ValueError("the differences of wins are multiples of a half")
    seen = abs(doubled.sum())
    return 1.0 if seen == 0.0 else _lattice_p(np.abs(doubled[doubled != 0.0]).astype(int), int(seen))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: the smallest times their number, the next times one less, never falling.

    Calling those at most alpha significant has chance at most alpha of any false call, whatever the tests depend on.
    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def n_needed(differences: ArrayLike, confidence: float, power: float) -> int | None:
    """Prompts at which a true difference of this mean and spread is told apart with chance `power`.

    ((z_confidence + z_power) sd / mean)^2, from the normal distribution of the mean; None for a mean of 0. It takes the
    difference seen for the true one: it says how far these data are from a verdict, and overrates a lucky difference.
    Never fewer prompts than `sign_flip` can decide by: its smallest p is 2^(1 - prompts).

    Args:
        differences: [m], one per prompt, of at least two.
    """
    differences = np.asarray(differences, float)
    mean = differences.mean()
    if abs(mean) <= ROUNDING * np.abs(differences).max():
        return None
    z = ndtri(0.5 + confidence / 2.0) + ndtri(power)
    fewest = 1.0 - math.log2(1.0 - confidence)
    return math.ceil(max(fewest, (z * differences.std(ddof=1) / mean) ** 2))


def _lattice_p(sizes: NDArray[np.int_], seen: int) -> float:
    """P(|sum of ± sizes| >= seen), sizes integer and positive: chance[y] is that the positive ones add up to y."""
    total = int(sizes.sum())
    chance = np.zeros(total + 1)
    chance[0] = 1.0
    for size in sizes:
        chance[size:] += chance[:-size].copy()
        chance /= 2.0
    return max(sys.float_info.min, min(1.0, 2.0 * float(chance[(total + seen) // 2 :].sum())))
