"""Which policies the data show to be dominated: another one wins more at less KL, and neither is noise."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from epsilon_dpo.analysis.intervals.bootstrap import Floats
from epsilon_dpo.analysis.intervals.differences import difference_of_totals, of_each


def dominated(kl: Sequence[Floats], wins: Sequence[Floats], answers: ArrayLike, confidence: float) -> NDArray[np.bool_]:
    """Which policies [n] lie, on the same prompts, above another one's KL and below its win rate, both outside their
    intervals. With `confidence` none is called dominated that is not.

    Each interval is one of as many as there are pairs: a false call needs one of the two axes to be wrong, so that the
    second costs nothing (Berger, Technometrics 24 (1982)).

    Args:
        kl, wins: of each policy its means by prompt, [prompts], in one order of prompts.
        answers: to each prompt, [prompts]; they weigh equally.

    Raises:
        ValueError: fewer than two prompts, where there are two policies or more.
    """
    pairs, found, sizes = list(combinations(range(len(kl)), 2)), np.zeros(len(kl), np.bool_), np.asarray(answers, float)
    each = of_each(confidence, len(pairs))
    for i, j in pairs:
        cost = difference_of_totals((kl[i] - kl[j]) * sizes, sizes, each, bound=None)
        gain = difference_of_totals((wins[i] - wins[j]) * sizes, sizes, each)
        found[i] |= cost.low > 0.0 and gain.high < 0.0
        found[j] |= cost.high < 0.0 and gain.low > 0.0
    return found
