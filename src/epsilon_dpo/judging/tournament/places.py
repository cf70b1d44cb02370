"""Which places a policy may have: as many as the data leave open, and no order among those that they do not separate.

Two policies are separated where the interval of the difference of their scores leaves out 0, all pairs together; a
score is the share of its games that a policy won, and where all meet equally often it orders them as Bradley-Terry's
strengths do. A policy's places then reach from behind all that are separated above it to before all
below it: with the chance of the intervals they hold all true places at once (Mogstad, Romano, Shaikh and Wilhelm,
Review of Economic Studies 91 (2024)).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from epsilon_dpo.analysis.intervals.bootstrap import Floats
from epsilon_dpo.analysis.intervals.differences import difference_of_totals, of_each


@dataclass(frozen=True)
class Place:
    """A policy's.

    Attributes:
        first, last: the best and the worst place that it may have, from 1.
        group: from 1; each of a group is separated from each of every other, and the lower group is the better one.
    """

    first: int
    last: int
    group: int


def places(games: Floats, confidence: float) -> list[Place]:
    """Of k policies in the order of their scores, the best first.

    Args:
        games: [prompts, k, k], how often row beat column on each prompt, ties a half; the diagonal is 0.

    Raises:
        ValueError: fewer than two prompts, or a policy without a game on one of them.
    """
    above = separated(games, confidence)
    k, group, found = len(above), 1, []
    for i in range(k):
        group += i > 0 and bool(above[:i, i:].all())
        found.append(Place(1 + int(above[:, i].sum()), k - int(above[i].sum()), group))
    return found


def separated(games: Floats, confidence: float) -> NDArray[np.bool_]:
    """Whether row is separated above column, [k, k]; `games` as in `places`."""
    played = (games + np.swapaxes(games, 1, 2)).sum(2)
    if np.any(played == 0.0):
        raise ValueError("a policy played no game on one of the prompts")
    won, k = games.sum(2), games.shape[1]
    above, pairs = np.zeros((k, k), np.bool_), list(combinations(range(k), 2))
    for i, j in pairs:
        sizes = (played[:, i] + played[:, j]) / 2.0
        found = difference_of_totals(won[:, i] - won[:, j], sizes, of_each(confidence, len(pairs)))
        above[i, j], above[j, i] = found.low > 0.0, found.high < 0.0
    return above


def chain(rows: Sequence[dict[str, object]], shown: int) -> str:
    """`a ~ b > c`: the first of the rows of a table, with > only between groups."""
    said = str(rows[0]["policy"])
    for before, row in pairwise(rows[:shown]):
        said += f" {'>' if row['group'] != before['group'] else '~'} {row['policy']}"
    return said + (" …" if len(rows) > shown else "")
