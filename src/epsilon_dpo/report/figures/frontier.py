"""Win rate against KL: what a method attains at each KL.

A method is a set of points, one per trained policy. What it attains at a KL is the best win rate of its points with at
most that KL: a staircase, without interpolation between policies that nobody trained. The area between it and a
reference point is the hypervolume (Zitzler and Thiele 1998): one number per method, in nats, comparable only for one
reference point. The best of several noisy points looks better than it is; the more points a method has, the more.

Resampling does not undo that: it takes the lucky point for the best one, and where policies are equally good its
intervals of 95 % covered 40 to 64 % (docs/statistics.md). Here all win rates and KLs of a method get intervals that
hold together. The staircase and the area rise with each win rate and fall with each KL; so the true ones lie between
what all the bad ends and what all the good ends attain. That covers at least as often, and is wider than it had to be
where policies differ.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from epsilon_dpo.analysis.intervals.bootstrap import Floats
from epsilon_dpo.analysis.intervals.rates import Estimate, student_t
from epsilon_dpo.analysis.intervals.win_rates import win_rate

ROUNDING = 1e-12  # of a sum of a policy's KLs


@dataclass(frozen=True)
class Reference:
    """The corner from which the hypervolume is measured.

    Attributes:
        kl: nats; what costs more counts for nothing. A KL that all methods span.
        win_rate: rate that a method has without any training: that of the SFT policy, or 1/2 against it.
    """

    kl: float
    win_rate: float


@dataclass(frozen=True)
class Frontier:
    """What a method attains.

    Attributes:
        kl: [g], nats.
        win_rate, low, high: [g], the staircase at each KL and its band over prompts, which holds at all KLs together.
        hypervolume: nats times win rate, with its interval over prompts.
    """

    kl: Floats
    win_rate: Floats
    low: Floats
    high: Floats
    hypervolume: Estimate


def attained(kl: Floats, win_rate: Floats, at: Floats, floor: float) -> Floats:
    """The best win rate, at least `floor`, among points with at most this KL, [g].

    A KL that is equal but for the order in which its prompts were added up is at most that.

    Args:
        kl, win_rate: [n].
        at: [g], nats.
    """
    return np.where(kl[:, None] <= at + ROUNDING * np.abs(at), win_rate[:, None], floor).max(0, initial=floor)


def hypervolume(kl: Floats, win_rate: Floats, reference: Reference) -> float:
    """Area between the staircase and the reference point, from KL 0 to the reference's.

    Args:
        kl, win_rate: [n]; a KL below 0, which an estimate can be, counts as 0.
    """
    order = np.argsort(kl)
    cost = np.clip(kl[order], 0.0, reference.kl)
    height = np.maximum.accumulate(win_rate[order]) - reference.win_rate
    width = np.diff(cost, append=reference.kl)
    return float(np.sum(np.maximum(0.0, height) * width))


def frontier(
    kl: ArrayLike,
    wins: ArrayLike,
    answers: ArrayLike,
    at: ArrayLike,
    reference: Reference,
    confidence: float,
    draws: int,
    seed: int,
) -> Frontier:
    """A method's staircase and hypervolume, with intervals over prompts.

    The reference point is taken as known.

    Args:
        kl: [points, prompts], nats, each prompt's mean.
        wins: [points, prompts], in the same order of prompts, likewise.
        answers: [prompts], of every policy; they weigh equally, as in the policies' own win rates and KLs.
        at: [g], KLs to evaluate the staircase at.
        draws, seed: of `confidence_of_each`.

    Raises:
        ValueError: the shapes differ, or there are fewer than two prompts.
    """
    costs, gains, grid = np.asarray(kl, float), np.asarray(wins, float), np.asarray(at, float)
    if costs.ndim != 2 or costs.shape != gains.shape or costs.shape[0] == 0:
        raise ValueError(f"kl {costs.shape} and wins {gains.shape} must both be [points, prompts]")
    m, sizes = costs.shape[1], np.asarray(answers, int)
    one_each, of = np.repeat(gains, sizes, axis=1), np.repeat(np.arange(m), sizes)  # a prompt's mean for each answer
    costs, gains = _weighed(costs, sizes), _weighed(gains, sizes)
    uncertain = costs[np.ptp(costs, axis=1) > 0.0]  # a KL that is the same everywhere, such as 0, is known
    each = confidence_of_each(np.concatenate([uncertain, gains]), confidence, draws, seed)
    cost, gain = costs.mean(1), gains.mean(1)
    reach = student_t(m - 1, each) * costs.std(1, ddof=1) / np.sqrt(m)
    rates = [win_rate(won, of, each) for won in one_each]
    worst = cost + reach, np.array([rate.low for rate in rates])
    best = cost - reach, np.array([rate.high for rate in rates])
    stairs, low, high = (attained(x, y, grid, reference.win_rate) for x, y in ((cost, gain), worst, best))
    area, least, most = (hypervolume(x, y, reference) for x, y in ((cost, gain), worst, best))
    return Frontier(grid, stairs, low, high, Estimate(area, least, most, m))


def _weighed(means: Floats, sizes: NDArray[np.int_]) -> Floats:
    """One number per prompt, [points, prompts], whose mean over prompts is the mean over answers (`per_prompt` of
    analysis/intervals/rates.py); of equal sizes the means as they are."""
    share = sizes / sizes.mean()
    over_answers = (means @ sizes / sizes.sum())[:, None]
    return means * share + over_answers * (1.0 - share)


def confidence_of_each(values: Floats, confidence: float, draws: int, seed: int) -> float:
    """The confidence at which each of k means must be stated for all k to hold together with `confidence`.

    From the largest of k standard normal variables correlated as the values are (the max-t method: Hothorn, Bretz and
    Westfall, Biometrical Journal 50 (2008)): what moves with something else costs less than by Bonferroni. Values
    without spread count as correlated with nothing.

    Args:
        values: [k, m], one per mean and prompt.
        draws: random draws of the k variables.

    Raises:
        ValueError: fewer than two prompts, or no draws.
    """
    k, m = values.shape
    if m < 2 or draws < 1:
        raise ValueError(f"{m} prompts and {draws} draws: it takes at least two and one")
    deviations = values - values.mean(1, keepdims=True)
    lengths = np.linalg.norm(deviations, axis=1, keepdims=True)
    unit = deviations / np.where(lengths > 0.0, lengths, 1.0)
    correlations = unit @ unit.T
    np.fill_diagonal(correlations, 1.0)
    drawn = np.random.default_rng(seed).multivariate_normal(np.zeros(k), correlations, draws, method="eigh")
    return float(2.0 * ndtr(np.quantile(np.abs(drawn).max(1), confidence)) - 1.0)
