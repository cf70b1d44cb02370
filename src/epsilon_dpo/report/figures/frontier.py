"""Win rate against KL: which points are dominated, and what a method attains at each KL.

A method is a set of points, one per trained policy. What it attains at a KL is the best win rate of its points with at
most that KL: a staircase, without interpolation between policies that nobody trained. The area between it and a
reference point is the hypervolume (Zitzler and Thiele 1998): one number per method, in nats, comparable only for one
reference point. The best of several noisy points looks better than it is; the more points a method has, the more.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from epsilon_dpo.analysis.intervals.bootstrap import Floats, ends, prompt_counts
from epsilon_dpo.analysis.intervals.rates import Estimate


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
        win_rate, low, high: [g], the staircase at each KL and its pointwise interval over prompts.
        hypervolume: nats times win rate, with its interval over prompts.
    """

    kl: Floats
    win_rate: Floats
    low: Floats
    high: Floats
    hypervolume: Estimate


def dominated(kl: ArrayLike, win_rate: ArrayLike) -> NDArray[np.bool_]:
    """Which points [n] another one makes pointless: no less win rate at no more KL, and better in one of them.

    Args:
        kl, win_rate: [n].
    """
    cost, gain = np.asarray(kl, float), np.asarray(win_rate, float)
    no_worse = (cost[:, None] <= cost) & (gain[:, None] >= gain)
    better = (cost[:, None] < cost) | (gain[:, None] > gain)
    return np.any(no_worse & better, axis=0)


def attained(kl: Floats, win_rate: Floats, at: Floats, floor: float) -> Floats:
    """The best win rate, at least `floor`, among points with at most this KL.

    Args:
        kl, win_rate: [..., n].
        at: [g], nats.

    Returns:
        [..., g].
    """
    best = np.full((*kl.shape[:-1], len(at)), floor)
    for point in range(kl.shape[-1]):
        affordable = kl[..., point, None] <= at
        np.maximum(best, np.where(affordable, win_rate[..., point, None], floor), out=best)
    return best


def hypervolume(kl: Floats, win_rate: Floats, reference: Reference) -> Floats:
    """Area between the staircase and the reference point, from KL 0 to the reference's, [...].

    Args:
        kl, win_rate: [..., n]; a KL below 0, which an estimate can be, counts as 0.
    """
    order = np.argsort(kl, axis=-1)
    cost = np.clip(np.take_along_axis(kl, order, -1), 0.0, reference.kl)
    height = np.maximum.accumulate(np.take_along_axis(win_rate, order, -1), -1) - reference.win_rate
    width = np.diff(cost, axis=-1, append=reference.kl)
    return np.sum(np.maximum(0.0, height) * width, axis=-1)


def frontier(
    kl: ArrayLike, wins: ArrayLike, at: ArrayLike, reference: Reference, confidence: float, draws: int, seed: int
) -> Frontier:
    """A method's staircase and hypervolume, with intervals: prompts are drawn for all points and both axes together.

    Args:
        kl: [points, prompts], nats, each prompt's mean.
        wins: [points, prompts], in the same order of prompts.
        at: [g], KLs to evaluate the staircase at.

    Raises:
        ValueError: the shapes differ, or there are fewer than two prompts.
    """
    costs, gains, grid = np.asarray(kl, float), np.asarray(wins, float), np.asarray(at, float)
    if costs.ndim != 2 or costs.shape != gains.shape or costs.shape[0] == 0:
        raise ValueError(f"kl {costs.shape} and wins {gains.shape} must both be [points, prompts]")
    m = costs.shape[1]
    stairs, areas = [], []
    for counts in prompt_counts(m, draws, seed, width=len(grid)):
        cost, gain = counts @ costs.T / m, counts @ gains.T / m
        stairs.append(attained(cost, gain, grid, reference.win_rate))
        areas.append(hypervolume(cost, gain, reference))
    cost, gain = costs.mean(1), gains.mean(1)
    low, high = ends(np.concatenate(stairs), confidence, m)
    area_low, area_high = ends(np.concatenate(areas), confidence, m)
    area = Estimate(float(hypervolume(cost, gain, reference)), float(area_low), float(area_high), m)
    return Frontier(grid, attained(cost, gain, grid, reference.win_rate), low, high, area)
