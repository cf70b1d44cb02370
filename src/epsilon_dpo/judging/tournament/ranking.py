"""All runs on one scale, from all-against-all judgement: Bradley-Terry strengths.

P(i beats j) = sigma(theta_i - theta_j), the theta with mean 0 (Bradley and Terry, Biometrika 39 (1952)); a tie is half
a win for each, and tournament.py says between which answers the games were. The likelihood has a finite maximum only if
no group of runs won all its games against the rest (Ford, American Mathematical Monthly 64 (1957)), which resampled
prompts need not satisfy. So each run also ties one virtual game, spread evenly over the others: that pulls every theta
a little towards the mean, keeps it finite, and for two runs is the usual log((wins + 1/2) / (losses + 1/2)).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from epsilon_dpo.analysis.intervals.bootstrap import Floats, ends, prompt_counts
from epsilon_dpo.analysis.intervals.rates import Estimate
from epsilon_dpo.judging.tournament.places import Place, places

STEPS = 100  # of Newton; the largest fit takes about log(games) + 5
PRECISION = 1e-6  # logits, of the last step; the next would be about its square


@dataclass(frozen=True)
class Ranked:
    """A run among the others.

    Attributes:
        strength: theta, logits.
        win_rate: expected against the other runs, each as often.
        place: the places that it may have.
    """

    name: str
    strength: Estimate
    win_rate: Estimate
    place: Place

    @property
    def elo(self) -> Estimate:
        """The strength on Elo's scale, 400 / ln 10 a logit, around 0."""
        scale, theta = 400.0 / math.log(10.0), self.strength
        return Estimate(scale * theta.value, scale * theta.low, scale * theta.high, theta.n)


def ranking(
    first: Sequence[str],
    second: Sequence[str],
    wins: ArrayLike,
    prompts: ArrayLike,
    confidence: float,
    draws: int,
    seed: int,
) -> list[Ranked]:
    """The runs from the strongest to the weakest, with intervals over prompts and the places that these leave open.

    Args:
        first, second: [n], the two runs of each record.
        wins: [n] in [0, 1], of first over second, ties a half.
        prompts: [n], each record's prompt.

    Raises:
        ValueError: there are fewer than two prompts, or a run has no game on one.
    """
    names, games = wins_by_prompt(first, second, wins, prompts)
    m, k = len(games), len(names)
    theta = strengths(games.sum(0))
    blocks = prompt_counts(m, draws, seed, width=k * k)
    resampled = np.concatenate([strengths((c @ games.reshape(m, k * k)).reshape(-1, k, k)) for c in blocks])
    columns = []
    for value, drawn in ((theta, resampled), (expected_win_rates(theta), expected_win_rates(resampled))):
        low, high = ends(drawn, confidence, m)
        columns.append([Estimate(float(value[i]), float(low[i]), float(high[i]), m) for i in range(k)])
    order = np.argsort(-theta, kind="stable")
    places_of = places(games[:, order][:, :, order], confidence)
    return [Ranked(names[i], columns[0][i], columns[1][i], place) for i, place in zip(order, places_of, strict=True)]


def wins_by_prompt(
    first: Sequence[str], second: Sequence[str], wins: ArrayLike, prompts: ArrayLike
) -> tuple[list[str], Floats]:
    """The runs [k] by name, and how often [m, k, k] row beat column on each prompt, ties a half."""
    wins = np.asarray(wins, float)
    names, of = np.unique([first, second], return_inverse=True)
    i, j = of.reshape(2, -1)
    labels, prompt = np.unique(prompts, return_inverse=True)
    games = np.zeros((len(labels), len(names), len(names)))
    np.add.at(games, (prompt, i, j), wins)
    np.add.at(games, (prompt, j, i), 1.0 - wins)
    return [str(name) for name in names], games


def strengths(wins: Floats) -> Floats:
    """theta of the greatest likelihood, [..., k], mean 0, the virtual game that each run ties among its games.

    By Newton, whose steps are cut to a difference of one logit: then each raises the likelihood (from the bounds of
    Bach 2010, arXiv 0910.4627).

    Args:
        wins: [..., k, k], how often row beat column; the diagonal is 0.
    """
    k = wins.shape[-1]
    wins = wins + 1.0 / (2.0 * (k - 1)) * (1.0 - np.eye(k))
    games = wins + np.swapaxes(wins, -1, -2)
    theta = np.zeros(wins.shape[:-1])
    for _ in range(STEPS):
        chance = expit(theta[..., :, None] - theta[..., None, :])
        gradient = (wins - games * chance).sum(-1)
        information = games * chance * (1.0 - chance)
        curvature = information.sum(-1)[..., None] * np.eye(k) - information
        step = np.linalg.solve(curvature + 1.0, gradient[..., None])[..., 0]  # + 1 keeps the mean of theta
        span = np.ptp(step, axis=-1, keepdims=True)
        theta = theta + step / np.maximum(1.0, span)
        if np.all(span < PRECISION):
            return theta - theta.mean(-1, keepdims=True)
    raise RuntimeError(f"Bradley-Terry did not converge in {STEPS} steps")


def expected_win_rates(theta: Floats) -> Floats:
    """Mean of sigma(theta_i - theta_j) over the other runs j, [..., k]."""
    chance = expit(theta[..., :, None] - theta[..., None, :])
    return (chance.sum(-1) - 0.5) / (theta.shape[-1] - 1)
