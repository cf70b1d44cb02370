"""Win rates at equal length: what a run wins by other means than longer, or shorter, answers.

A logistic fit of the win on tanh((length_a - length_b) / sd) and an intercept, predicted at 0: the idea of AlpacaEval's
length-controlled rate (Dubois et al. 2024, arXiv 2404.04475) without its terms for instructions, which need many models
on the same ones. sd is that of the differences of these records, a part of the fit's definition and no estimate.

The interval is that of the intercept, by the sandwich over prompts (Liang and Zeger, Biometrika 73 (1986)) and
Student's t, carried through the logistic: it stays within [0, 1].
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from epsilon_dpo.analysis.intervals.bootstrap import Floats
from epsilon_dpo.analysis.intervals.rates import Estimate, student_t
from epsilon_dpo.analysis.intervals.win_rates import win_rate

RIDGE = 0.01  # on both coefficients, worth 0.04 records; keeps them finite where lengths separate the wins
SIMILAR = 0.2  # of the longer answer
STEPS = 100
CAREFUL = 25  # steps; fits of lengths without runaways take fewer
PRECISION = 1e-6  # log-odds, of the last step; the next would be about its square


@dataclass(frozen=True)
class LengthControlled:
    """A win rate with length taken into account in two ways.

    Attributes:
        win_rate: predicted at equal length; an extrapolation where `similar` rests on few prompts.
        slope: log-odds of a win per unit of tanh((length_a - length_b) / sd); positive where the longer answer wins.
        similar: the plain win rate among pairs whose lengths differ by at most 20 % of the longer. None without any.
    """

    win_rate: Estimate
    slope: float
    similar: Estimate | None


def length_controlled(
    wins: ArrayLike, length_a: ArrayLike, length_b: ArrayLike, prompts: ArrayLike, confidence: float
) -> LengthControlled | None:
    """The win rate of a against b at equal length.

    Where all wins are equal there is no fit: the rate is the plain one.

    Args:
        wins: [n] in [0, 1], ties a half.
        length_a, length_b: [n], in characters or tokens.
        prompts: [n], each record's prompt.

    Returns:
        None where there can be no fit: fewer than three prompts are too few for an intercept, a slope and their error;
        and where all pairs differ in length by the same amount, what that does to wins cannot be taken out.
    """
    y, a, b = (np.asarray(column, float) for column in (wins, length_a, length_b))
    labels, differences = np.asarray(prompts), a - b
    alike = np.abs(differences) <= SIMILAR * np.maximum(a, b)
    similar = win_rate(y[alike], labels[alike], confidence) if alike.any() else None
    if np.ptp(y) == 0.0:
        return LengthControlled(win_rate(y, labels, confidence), 0.0, similar)
    sd = differences.std()
    if len(set(labels.tolist())) < 3 or (sd == 0.0 and differences[0] != 0.0):
        return None
    terms = np.tanh(differences / sd) if sd > 0.0 else differences
    return LengthControlled(*_at_equal_length(y, terms, labels, confidence), similar)


def _at_equal_length(wins: Floats, terms: Floats, prompts: NDArray, confidence: float) -> tuple[Estimate, float]:
    """The prediction at 0 with its interval, and the slope.

    The variance of the intercept is the sandwich's, but not below the curvature's: where lengths separate the wins,
    residuals vanish and the sandwich with them, while the fit knows next to nothing.
    """
    x = np.stack([np.ones_like(terms), terms], 1)
    coefficients, inverse = _fit(x, wins)
    labels, of = np.unique(prompts, return_inverse=True)
    m = len(labels)
    scores = np.zeros((m, 2))
    np.add.at(scores, of, x * (wins - expit(x @ coefficients))[:, None])
    sandwich = inverse @ (scores.T @ scores) @ inverse * m / (m - 1)
    half_width = student_t(m - 2, confidence) * np.sqrt(max(sandwich[0, 0], inverse[0, 0]))
    value, low, high = (float(expit(coefficients[0] + shift)) for shift in (0.0, -half_width, half_width))
    return Estimate(value, low, high, m), float(coefficients[1])


def _fit(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Coefficients [2] of the ridge-penalised logistic likelihood and its inverse curvature [2, 2].

    By Newton, no step changing a record's log-odds by more than one: then each raises the likelihood (from the bounds
    of Bach 2010, arXiv 0910.4627). Where the optimum is far (a few records much longer than all others) such steps are
    too many, so that from the CAREFUL-th on each is doubled while that raises the likelihood further.
    """
    coefficients = np.zeros(2)
    for k in range(STEPS):
        chance = expit(x @ coefficients)
        gradient = x.T @ (y - chance) - RIDGE * coefficients
        inverse = np.linalg.inv((x * (chance * (1.0 - chance))[:, None]).T @ x + RIDGE * np.eye(2))
        step = inverse @ gradient
        largest = np.abs(x @ step).max()
        moved = coefficients + step / max(1.0, largest)
        if largest < PRECISION:
            return moved, inverse
        coefficients = moved if k < CAREFUL else _furthest(x, y, coefficients, step, largest)
    raise RuntimeError(f"the logistic fit did not converge in {STEPS} steps")


def _furthest(x: Floats, y: Floats, start: Floats, step: Floats, largest: float) -> Floats:
    """`start` and the part of `step` that changes no log-odds by more than 1, 2, 4, ...: while the likelihood rises."""
    share = min(1.0, 1.0 / largest)
    best = start + share * step
    while share < 1.0:
        share = min(1.0, 2.0 * share)
        further = start + share * step
        if not _likelihood(x, y, further) > _likelihood(x, y, best):
            break
        best = further
    return best


def _likelihood(x: Floats, y: Floats, coefficients: Floats) -> float:
    """Its logarithm, with the ridge."""
    z = x @ coefficients
    return float((y * z - np.logaddexp(0.0, z)).sum() - RIDGE / 2.0 * coefficients @ coefficients)
