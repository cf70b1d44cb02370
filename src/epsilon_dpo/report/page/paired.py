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

from epsilon_dpo.analysis.intervals.bootstrap import BLOCK, totals_by_prompt
from epsilon_dpo.analysis.intervals.differences import difference, of_each
from epsilon_dpo.analysis.intervals.rates import Estimate, per_prompt

Outcome = Literal["better", "worse", "cannot be told apart"]
ROUNDING = 1e-12  # relative: sums that differ by less are equal


@dataclass(frozen=True)
class Verdict:
    """What the records say of `first` against `second`.

    Attributes:
        outcome: decided where `together` leaves out 0, for which interval and exact test must both decide: among all
            pairs judged together, a false one has at most chance 1 - confidence.
        difference: that of mean wins, first - second, over `difference.n` prompts. Its interval is of this pair alone,
            and may leave out 0 where the outcome is open.
        together: the same difference; the intervals of all pairs judged together hold at once. It reaches to 0 where
            the adjusted p, which is exact, does not decide.
        p_value, p_adjusted: result of `sign_flip`, before and after Holm's correction for the pairs judged together.
        n_needed: prompts that a difference of this size takes to be decided among as many pairs, at the level that Holm
            gives the clearest of them; None where there was no difference.
    """

    first: str
    second: str
    outcome: Outcome
    difference: Estimate
    together: Estimate
    p_value: float
    p_adjusted: float
    n_needed: int | None


def verdicts(
    wins: Mapping[str, ArrayLike], prompts: ArrayLike, confidence: float, power: float, draws: int, seed: int
) -> list[Verdict]:
    """Every two runs, in the order given, corrected for each other.

    Args:
        wins: each run's, [n], in the same order of prompts.
        prompts: [n], each record's prompt; several records of one prompt may be in any order.
        power: chance of a verdict on a pair that `n_needed` prompts give, at the least.

    Raises:
        ValueError: the lengths differ, or there are fewer than two prompts.
    """
    pairs = list(combinations(wins, 2))
    found = [np.asarray(wins[first], float) - np.asarray(wins[second], float) for first, second in pairs]
    p_values = [sign_flip(differences, prompts, draws, seed) for differences in found]
    each = of_each(confidence, len(pairs))
    results = []
    for (first, second), differences, p_value, adjusted in zip(pairs, found, p_values, holm(p_values), strict=True):
        alone = difference(differences, prompts, confidence)
        together = difference(differences, prompts, each)
        if adjusted > 1.0 - confidence:
            together = replace(together, low=min(0.0, together.low), high=max(0.0, together.high))
        needed = n_needed(per_prompt(differences.tolist(), np.asarray(prompts).tolist()), each, power)
        results.append(Verdict(first, second, outcome_of(together), alone, together, p_value, adjusted, needed))
    return results


def outcome_of(together: Estimate) -> Outcome:
    """Which of the two wins more often, as far as the interval leaves out 0."""
    if together.low <= 0.0 <= together.high:
        return "cannot be told apart"
    return "better" if together.low > 0.0 else "worse"


def sign_flip(differences: ArrayLike, prompts: ArrayLike, draws: int, seed: int) -> float:
    """Two-sided p of a mean difference as far from 0 as this one, under random signs of the prompts' differences.

    Exact where the differences are multiples of a half, as wins are, by the null distribution's recursion (Pagano and
    Tritchler, JASA 78 (1983)); with one decided record per prompt that is McNemar's exact test. Exact by enumeration
    where there are no more sign patterns than `draws`. Else by that many random ones, (hits + 1) / (draws + 1) (Phipson
    and Smyth 2010, arXiv 1603.05766). Never 0.

    Args:
        differences: [n], first - second, one per record.
        prompts: [n], each record's prompt.

    Raises:
        ValueError: the lengths differ, or the differences are not all finite.
    """
    totals, _ = totals_by_prompt(differences, prompts)
    sizes = np.abs(totals[totals != 0.0])
    seen = abs(totals.sum())
    if seen == 0.0:
        return 1.0
    if np.all(2.0 * sizes == np.round(2.0 * sizes)):
        return _lattice_p((2.0 * sizes).astype(int), round(2.0 * seen))
    at_least = seen - ROUNDING * sizes.sum()
    if len(sizes) < 63 and 2 ** len(sizes) <= draws:
        signs = 1.0 - 2.0 * (np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes)) & 1)
        return float(np.mean(np.abs(signs @ sizes) >= at_least))
    generator, hits = np.random.default_rng(seed), 0
    rows = max(1, BLOCK // len(sizes))
    for start in range(0, draws, rows):
        drawn = generator.integers(2, size=(min(rows, draws - start), len(sizes)), dtype=np.int8)
        hits += int(np.sum(np.abs((1.0 - 2.0 * drawn) @ sizes) >= at_least))
    return (hits + 1) / (draws + 1)


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
        differences: [m], one per prompt.
    """
    differences = np.asarray(differences, float)
    if len(differences) < 2:
        raise ValueError("fewer than two prompts say nothing of the spread of their differences")
    if not (0.0 < confidence < 1.0 and 0.0 < power < 1.0):
        raise ValueError(f"a confidence of {confidence} or a power of {power} is not in (0, 1)")
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
