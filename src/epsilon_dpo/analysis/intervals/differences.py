"""Differences of two policies on the same prompts, with intervals that hold also where few prompts differ.

Two imaginary prompts are added, one that each policy wins, and the interval is Student's of all (Bonett and Price,
Journal of Educational and Behavioral Statistics 37 (2012), for paired proportions). So no difference at all, or one
that four of 256 prompts show, all one way, is not taken for certain, as a bootstrap would. In simulations of 95 %
intervals from 20 to 256 prompts it covers in 94 % at least, with few differing prompts or rates near 1 in up to 99 %.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from epsilon_dpo.analysis.intervals.bootstrap import Floats, totals_by_prompt
from epsilon_dpo.analysis.intervals.rates import Estimate, student_t


def of_each(confidence: float, intervals: int) -> float:
    """The confidence of each of so many intervals that all hold at once with `confidence`, whatever they depend on
    (Bonferroni)."""
    return 1.0 - (1.0 - confidence) / max(1, intervals)


def difference(differences: ArrayLike, prompts: ArrayLike, confidence: float) -> Estimate:
    """The mean over records, and its interval over prompts.

    Args:
        differences: [n], first - second, one per record, of wins: none is larger than 1.
        prompts: [n], each record's prompt.

    Raises:
        ValueError: fewer than two prompts, the lengths differ, or the differences are not all finite.
    """
    return difference_of_totals(*totals_by_prompt(differences, prompts), confidence)


def difference_of_totals(totals: Floats, sizes: Floats, confidence: float, bound: float | None = 1.0) -> Estimate:
    """`difference` of records that are added up.

    Args:
        totals, sizes: of each prompt its records' sum and their number, [m] each.
        bound: the largest difference that there can be, 1 for wins; the ends stay within it. None: there is none (KL),
            and no imaginary prompts.

    Raises:
        ValueError: fewer than two prompts.
    """
    m = len(sizes)
    if m < 2:
        raise ValueError("one prompt says nothing about others: an interval needs at least two")
    value = float(totals.sum() / sizes.sum())
    prompt_values = value + (totals - value * sizes) / sizes.mean()  # of equal sizes: each prompt's mean
    if bound is None:
        half_width = student_t(m - 1, confidence) * prompt_values.std(ddof=1) / math.sqrt(m)
        return Estimate(value, value - half_width, value + half_width, m)
    prompt_values = np.append(prompt_values, [bound, -bound])
    half_width = student_t(m - 1, confidence) * prompt_values.std() / math.sqrt(m + 2)
    low, high = prompt_values.mean() - half_width, prompt_values.mean() + half_width
    return Estimate(value, float(min(value, max(-bound, low))), float(max(value, min(bound, high))), m)
