"""An estimate, the value with its interval that every comparison states, and means of independent values.

`mean` treats its values as independent; where several belong to one prompt, `mean_over_prompts`, bootstrap.py and
win_rates.py take prompts for what is sampled.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

UNSKEWED = 1e-6  # of what `skewed_mean` divides by: below it is no skewness but rounding


@dataclass(frozen=True)
class Estimate:
    """A value between the ends of its confidence interval, from `n` observations."""

    value: float
    low: float
    high: float
    n: int

    def columns(self, name: str) -> dict[str, float]:
        """Of a table: `name`, `name_low`, `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}

    def named(self, name: str) -> dict[str, float]:
        """As metrics: `columns` and `name_n`."""
        return self.columns(name) | {f"{name}_n": self.n}


def standard_error(values: Sequence[float]) -> float:
    """Of the mean: s / sqrt(n), s with n - 1 in its denominator.

    Raises:
        ValueError: fewer than two values, which say nothing of their spread.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} values have no standard error")
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def mean(values: Sequence[float], confidence: float) -> Estimate:
    """The mean of real values, ± t standard errors, t of Student's distribution with n - 1 degrees of freedom.

    Raises:
        ValueError: fewer than two values.
    """
    half_width = standard_error(values) * student_t(len(values) - 1, confidence)
    centre = float(np.mean(values))
    return Estimate(centre, centre - half_width, centre + half_width, len(values))


def skewed_mean(values: Sequence[float], confidence: float) -> Estimate:
    """The mean of values of which a few are far larger than the rest, such as KLs, with an interval that allows for it.

    Where such a value is absent from the sample, both its mean and its spread are too small, so that `mean` lies below
    the true value far more often than above it. With t = (m - mean) / standard error of a mean m and a third of the
    skewness over sqrt(n) as a, g(t) = t + a t^2 + a^2 t^3 / 3 + a / 2 has no such skewness, to first order, and grows
    with t: the ends are where g is ± Student's t (P. Hall, "On the removal of skewness by transformation", Journal of
    the Royal Statistical Society B 54 (1992)). Without skewness that is `mean`'s interval.

    Args:
        values: independent of each other: one per prompt (`per_prompt`).

    Raises:
        ValueError: fewer than two values.
    """
    plain = mean(values, confidence)
    deviations = np.asarray(values) - plain.value
    variance = float(np.mean(deviations**2))
    a = float(np.mean(deviations**3)) / variance**1.5 / (3.0 * math.sqrt(plain.n)) if variance > 0.0 else 0.0
    if abs(a) < UNSKEWED:
        return plain
    t = student_t(plain.n - 1, confidence)
    at_t, at_minus_t = (float((np.cbrt(1.0 + 3.0 * a * (g - a / 2.0)) - 1.0) / a) for g in (t, -t))
    error = standard_error(values)
    low, high = plain.value - at_t * error, plain.value - at_minus_t * error
    return Estimate(plain.value, min(plain.value, low), max(plain.value, high), plain.n)


def per_prompt(values: Sequence[float], prompts: Sequence[Hashable]) -> list[float]:
    """One number per prompt whose mean is that of `values` and whose spread is that between prompts.

    With G prompts, n values and their mean m, prompt g becomes m + G/n * (sum of its values - m). The standard error of
    these is the cluster-robust one of m: answers to one prompt may depend on each other in any way. If every prompt has
    one value, these are the values.
    """
    centre = sum(values) / len(values)
    deviations: dict[Hashable, float] = {}
    for value, prompt in zip(values, prompts, strict=True):
        deviations[prompt] = deviations.get(prompt, 0.0) + value - centre
    return [centre + len(deviations) / len(values) * total for total in deviations.values()]


def mean_over_prompts(values: Sequence[float], prompts: Sequence[Hashable], confidence: float) -> Estimate:
    """`mean` where what is sampled are prompts, of which each may have several of `values`: `n` counts prompts.

    Raises:
        ValueError: fewer than two prompts.
    """
    alone = len(set(prompts)) == len(values)  # then not even rounded: there is nothing to sum
    return mean(values if alone else per_prompt(values, prompts), confidence)


def student_t(freedom: float, confidence: float) -> float:
    """t with P(|T| <= t) = confidence for Student's distribution: 2.26 for 9 degrees of freedom and 0.95."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"a confidence of {confidence} is not in (0, 1)")
    return float(-stdtrit(freedom, (1.0 - confidence) / 2.0))
