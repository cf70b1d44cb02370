"""Where the uncertainty of a win rate comes from: training, prompts, sampling, judging.

The design is nested: a policies trained from different seeds answer the same b prompts, c times each, and every answer
is judged o times (in both orders, say):

    y = mean + training_s + prompt_p + interaction_sp + sampling_spc + order_o + judging_spco

All but the mean and the order are random. The order's effect, the judge's position bias, is the same everywhere and no
noise: it is taken out. Components follow from equating mean squares with their expectations (Searle, Casella and
McCulloch, Variance Components (1992), chapter 4): unbiased for any distribution, and so at times below 0.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from epsilon_dpo.analysis.intervals.bootstrap import Floats
from epsilon_dpo.analysis.intervals.rates import Estimate, student_t


@dataclass(frozen=True)
class Component:
    """One source of variance.

    Attributes:
        raw: its unbiased estimate per level (one training, one prompt, ...); a small one can come out below 0.
        levels: number of levels that the win rate averages over.
    """

    raw: float
    levels: int

    @property
    def variance(self) -> float:
        """Per level, not below 0."""
        return max(0.0, self.raw)

    @property
    def of_win_rate(self) -> float:
        """What it adds to the variance of the win rate."""
        return self.variance / self.levels


@dataclass(frozen=True)
class VarianceSplit:
    """A win rate and what its variance consists of. A component is None where the design cannot know it.

    Attributes:
        training: component between seeds. None with one seed: then everything here is about that one policy.
        prompt: between prompts, for the average policy (with one seed, for that policy). None with one seed and one
            answer each, where it cannot be separated from sampling.
        interaction: prompts on which one seed does better than another. None with one seed or one answer each.
        sampling: between answers of one policy to one prompt. With one judgement each it includes the judge's noise.
            None with one answer each.
        judging: between judgements of one answer, position bias excluded. None with one judgement each.
        standard_error: that of the win rate, for other seeds (unless there is one) and other prompts. Its square is the
            sum of what the components add, if all are known and none came out below 0.
        prompts: their number.
    """

    win_rate: float
    training: Component | None
    prompt: Component | None
    interaction: Component | None
    sampling: Component | None
    judging: Component | None
    standard_error: float
    prompts: int

    def interval(self, confidence: float, over_prompts: Estimate | None = None) -> tuple[float, float]:
        """Of the win rate: each part of the variance times the square of its own Student's t.

        Training has as many degrees of freedom as seeds but one, the rest as many as prompts but one (Howe, JASA 69
        (1974)). A single t would be too narrow where the few seeds decide: in simulations it covered 92 % with three
        seeds, this one 95 %; with two seeds this one covers 92 to 97 %.

        Args:
            over_prompts: the same rate with an interval over prompts alone that knows of its bounds, `win_rate` of
                analysis/intervals; the rest reaches at least as far. Without one, for scores that have no bounds, wins
                that are all equal are taken for certain.
        """
        training = self.training
        rest = self.standard_error**2 - (training.of_win_rate if training else 0.0)
        reach = student_t(self.prompts - 1, confidence) * math.sqrt(max(0.0, rest))
        below = above = reach
        if over_prompts:
            below = max(reach, over_prompts.value - over_prompts.low)
            above = max(reach, over_prompts.high - over_prompts.value)
        seeds = student_t(training.levels - 1, confidence) ** 2 * training.of_win_rate if training else 0.0
        return self.win_rate - math.sqrt(below**2 + seeds), self.win_rate + math.sqrt(above**2 + seeds)


def split_variance(wins: ArrayLike) -> VarianceSplit:
    """The components of a balanced design.

    Args:
        wins: [seeds, prompts, answers, judgements], each in [0, 1] or any real score; one level is allowed anywhere but
            for prompts.

    Raises:
        ValueError: another shape, an empty cell, or fewer than two prompts.
    """
    y = np.asarray(wins, float)
    if y.ndim != 4 or 0 in y.shape or y.shape[1] < 2:
        raise ValueError(f"wins {y.shape} must be [seeds, prompts, answers, judgements] with at least two prompts")
    if not np.isfinite(y).all():
        raise ValueError("the design has empty cells: every seed answers every prompt equally often")
    a, b, c, o = y.shape
    squares = _mean_squares(y)
    return VarianceSplit(
        win_rate=float(y.mean()),
        training=_component(squares.training, squares.interaction, b * c * o, a),
        prompt=_component(squares.prompt, squares.sampling if a == 1 else squares.interaction, a * c * o, b),
        interaction=_component(squares.interaction, squares.sampling, c * o, a * b),
        sampling=_component(squares.sampling, 0.0 if o == 1 else squares.judging, o, a * b * c),
        judging=_component(squares.judging, 0.0, 1, y.size),
        standard_error=math.sqrt(_of_the_mean(squares) / y.size),
        prompts=b,
    )


@dataclass(frozen=True)
class _MeanSquares:
    """Sums of squares over their degrees of freedom, which are a - 1, b - 1, ...; None where there are none.

    Expected: judging J; sampling J + o S; interaction J + o S + c o I; training that + b c o T; prompt that + a c o P
    (with one seed J + o S + c o (I + P): its prompts' spread).
    """

    training: float | None
    prompt: float
    interaction: float | None
    sampling: float | None
    judging: float | None


def _mean_squares(y: Floats) -> _MeanSquares:
    a, b, c, o = y.shape
    answer = y.mean(3)
    cell = answer.mean(2)
    seed, prompt, mean = cell.mean(1), cell.mean(0), y.mean()
    judged = y - answer[..., None] - y.mean((0, 1, 2)) + mean
    return _MeanSquares(
        training=_mean_square(seed - mean, b * c * o, a - 1),
        prompt=float(np.sum((prompt - mean) ** 2) * a * c * o / (b - 1)),
        interaction=_mean_square(cell - seed[:, None] - prompt + mean, c * o, (a - 1) * (b - 1)),
        sampling=_mean_square(answer - cell[..., None], o, a * b * (c - 1)),
        judging=_mean_square(judged, 1, (a * b * c - 1) * (o - 1)),
    )


def _mean_square(deviations: Floats, repeated: int, freedom: int) -> float | None:
    return float(np.sum(deviations**2) * repeated / freedom) if freedom else None


def _component(square: float | None, error: float | None, repeated: int, levels: int) -> Component | None:
    return None if square is None or error is None else Component((square - error) / repeated, levels)


def _of_the_mean(squares: _MeanSquares) -> float:
    """The mean square of the win rate itself, training and prompts not below the interaction."""
    if squares.training is None or squares.interaction is None:
        return squares.prompt
    error = squares.interaction
    return max(squares.training, error) + max(squares.prompt, error) - error
