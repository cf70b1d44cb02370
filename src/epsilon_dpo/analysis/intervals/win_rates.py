"""Win rates with an interval that also holds near 0 and 1, with ties and with several answers per prompt.

Gaffke's bounds for the mean of values in [0, 1] (Mathematical Methods of Statistics 14 (2005); Learned-Miller and
Thomas 2019, arXiv 1905.06208): each prompt gets a random weight, as in the Bayesian bootstrap, and for the low end one
further prompt takes part that is lost, for the high end one that is won. Where each prompt is a win or a loss that is
Clopper and Pearson's exact interval (Biometrika 26 (1934)). Where a record is replaced by a better one, both ends rise
or stay. That the bounds hold for every n is proven for two values and conjectured for others; no counterexample
is known, and docs/statistics.md says what they cover.

The price: Wilson's interval and the bootstrap are narrower, by 3 to 5 % at 256 prompts and rates near 1/2. Near 0 and 1
Wilson's covers as little as 84 % (at a true rate of 1 - 0.17 / n), the bootstrap with a few ties 87 %.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import betaincinv

from epsilon_dpo.analysis.intervals.bootstrap import Floats, totals_by_prompt
from epsilon_dpo.analysis.intervals.rates import Estimate

STEP = 0.025  # of log u, below: an end is then wrong by less than 1e-7 at 95 %, up to 20,000 prompts
FREQUENCIES = np.exp(np.arange(-30.0, 20.0, STEP))
CERTAIN = 12.0  # standard deviations from 0 to the mean: the chance of the other sign is below 1e-5
PRECISION = 1e-10  # of an end


def win_rate(wins: ArrayLike, prompts: ArrayLike, confidence: float) -> Estimate:
    """The mean of wins over records, and its interval over prompts.

    The further prompt has as many records as the prompt of a record has on average: as many as each where all have
    equally many.

    Args:
        wins: [n] in [0, 1]: 1 won, 0 lost, ties a half.
        prompts: [n], each record's prompt (any label).

    Returns:
        Its `n` counts prompts; one is enough.

    Raises:
        ValueError: no records, wins outside [0, 1], or a confidence outside (0, 1).
    """
    values = np.asarray(wins, float)
    totals, sizes = totals_by_prompt(values, prompts)
    if values.min() < 0.0 or values.max() > 1.0:
        raise ValueError("wins lie between 0 and 1")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"a confidence of {confidence} is not in (0, 1)")
    value, level = float(totals.sum() / sizes.sum()), (1.0 - confidence) / 2.0
    low, high = _low_end(totals, sizes, level), 1.0 - _low_end(sizes - totals, sizes, level)
    # An end lies on the wrong side of the value only at confidences below 0.3.
    return Estimate(value, min(low, value), max(high, value), len(sizes))


def _low_end(totals: Floats, sizes: Floats, level: float) -> float:
    """The quantile at `level` of the randomly weighted mean of totals / sizes, [m] each, with a lost prompt."""
    if totals.sum() == 0.0:
        return 0.0
    if np.all(sizes == sizes[0]) and np.all((totals == 0.0) | (totals == sizes)):
        winners = np.count_nonzero(totals)  # the same in closed form, Clopper and Pearson's
        return float(betaincinv(winners, len(totals) - winners + 1, level))
    kinds, counts = np.unique(np.stack([totals, sizes]), axis=1, return_counts=True)
    won, size = np.append(kinds[0], 0.0), np.append(kinds[1], sizes @ sizes / sizes.sum())
    shapes: Floats = np.append(counts, 1.0)

    def excess(p: float) -> float:
        """The weighted mean is at most p where the sum of weights times (total - p size) is at most 0."""
        return _chance_of_no_more_than_0(won - p * size, shapes) - level

    return float(brentq(excess, 0.0, 1.0, xtol=PRECISION))


def _chance_of_no_more_than_0(scales: Floats, counts: Floats) -> float:
    """P(Q <= 0) for Q = sum of independent exponential variables, counts [k] of mean scales [k], which may be negative.

    1/2 - 1/pi times the integral of Im(phi(u)) / u over u > 0, phi being Q's characteristic function, the product of
    (1 - i u scale)^-count (Imhof, Biometrika 48 (1961)); by the trapezoidal rule in log u.
    """
    mean, deviation = counts @ scales, np.sqrt(counts @ scales**2)
    if abs(mean) > CERTAIN * deviation:
        return float(mean < 0.0)
    u = np.outer(FREQUENCIES / np.abs(scales).max(), scales)
    imaginary = np.exp(-0.5 * np.log1p(u * u) @ counts) * np.sin(np.arctan(u) @ counts)
    return float(0.5 - STEP / np.pi * imaginary.sum())
