"""What every comparison of this project is stated in: a value with its interval, and means of independent values.

The means here treat their values as independent; where several belong to one prompt, bootstrap.py and win_rates.py take
prompts for what is sampled.
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
