"""Rates and means with their uncertainty: what every comparison of this project is stated in.

A rate here may count ties as half a success, so `successes` need not be an integer. The intervals treat the judged
pairs as independent given their prompts, which holds for answers sampled independently; several pairs on one prompt
then make the interval wider than needed, never narrower, for a statement about these prompts. It says nothing about
other prompts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri


@dataclass(frozen=True)
class Estimate:
    """A value between the ends of its confidence interval, from `n` observations."""

    value: float
    low: float
    high: float
    n: int

    def named(self, name: str) -> dict[str, float]:
        """As metrics: `name`, `name_low`, `name_high`, `name_n`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high, f"{name}_n": self.n}


def wilson(successes: float, n: int, confidence: float) -> tuple[float, float]:
    """The Wilson score interval of a rate.

    Inverts the score test: all p with |successes/n - p| <= z sqrt(p (1 - p) / n). Source: E. B. Wilson, JASA 22 (1927);
    recommended over p ± z se by Brown, Cai and DasGupta, Statistical Science 16 (2001). With ties as half a success it
    is conservative: the variance of values in {0, 1/2, 1} is at most p (1 - p).

    Args:
        successes: their number, ties as a half, in [0, n].
        n: trials, at least 1.
        confidence: coverage, in (0, 1).

    Returns:
        Low and high end, within [0, 1].

    Raises:
        ValueError: an argument is outside its range.
    """
    if n < 1 or not 0.0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials are no rate")
    z = _normal_quantile(confidence)
    rate = successes / n
    centre = rate + z * z / (2 * n)
    half_width = z * math.sqrt(rate * (1.0 - rate) / n + z * z / (4 * n * n))
    scale = 1.0 + z * z / n
    return max(0.0, (centre - half_width) / scale), min(1.0, (centre + half_width) / scale)


def rate(wins: Sequence[float], confidence: float) -> Estimate:
    """The mean of values in {0, 1/2, 1} with its Wilson interval.

    Raises:
        ValueError: `wins` is empty.
    """
    total = float(sum(wins))
    low, high = wilson(total, len(wins), confidence)
    return Estimate(total / len(wins), low, high, len(wins))


def standard_error(values: Sequence[float]) -> float:
    """Of the mean: s / sqrt(n), s with n - 1 in its denominator.

    Raises:
        ValueError: fewer than two values, which say nothing of their spread.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} values have no standard error")
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def mean(values: Sequence[float], confidence: float) -> Estimate:
    """The mean of real values, ± z standard errors (the central limit theorem's interval).

    Raises:
        ValueError: `values` is empty.
    """
    if len(values) == 0:
        raise ValueError("the mean of an empty list is undefined")
    centre = float(np.mean(values))
    half_width = _normal_quantile(confidence) * standard_error(values)
    return Estimate(centre, centre - half_width, centre + half_width, len(values))


def _normal_quantile(confidence: float) -> float:
    """z with P(|Z| <= z) = confidence for a standard normal Z: 1.96 for 0.95."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"a confidence of {confidence} is not in (0, 1)")
    return float(ndtri(0.5 + confidence / 2.0))
