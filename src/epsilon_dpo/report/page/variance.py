"""The variance of a win rate, and how much of it comes from training.

The design is nested: a policies trained from different seeds answer the same b prompts, c times each, and every answer
is judged o times (in both orders, say):

    y = mean + training_s + prompt_p + interaction_sp + sampling_spc + order_o + judging_spco

All but the mean and the order are random. The order's effect, the judge's position bias, is the same everywhere and no
noise: it moves the mean only. Training's component follows from equating mean squares with their expectations (Searle,
Casella and McCulloch, Variance Components (1992), chapter 4): unbiased for any distribution, and so at times below 0.
What the other sources add, of which seeds may share some, is told apart in report/page/uncertainty.py.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from epsilon_dpo.analysis.intervals.rates import Estimate, student_t


@dataclass(frozen=True)
class Component:
    """One source of variance.

    Attributes:
        raw: its unbiased estimate per level (one training); a small one can come out below 0.
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
    """A win rate, its standard error, and what of that is training's.

    Attributes:
        training: component between seeds. None with one seed: then everything here is about that one policy.
        standard_error: that of the win rate, for other seeds (unless there is one) and other prompts.
        prompts: their number.
    """

    win_rate: float
    training: Component | None
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
    """Of a balanced design.

    With J, S, I, P, T the components of judging, sampling, interaction, prompts and training, the mean square of the
    interaction is expected to be J + o S + c o I; of training that + b c o T; of prompts that + a c o P (with one seed
    J + o S + c o (I + P): its prompts' spread). In that of the win rate itself neither training's nor prompts' is
    taken below the interaction's.

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
    cell = y.mean(3).mean(2)
    seed, prompt, mean = cell.mean(1), cell.mean(0), y.mean()
    of_prompts = float(np.sum((prompt - mean) ** 2) * a * c * o / (b - 1))
    training, of_mean = None, of_prompts
    if a > 1:
        of_seeds = float(np.sum((seed - mean) ** 2) * (b * c * o) / (a - 1))
        interaction = float(np.sum((cell - seed[:, None] - prompt + mean) ** 2) * (c * o) / ((a - 1) * (b - 1)))
        training = Component((of_seeds - interaction) / (b * c * o), a)
        of_mean = max(of_seeds, interaction) + max(of_prompts, interaction) - interaction
    return VarianceSplit(win_rate=float(mean), training=training, standard_error=math.sqrt(of_mean / y.size), prompts=b)
