"""The pairs of one optimizer step, cut into micro-batches so that little is padded.

Which pairs form a step is not decided here, and the step's mean does not depend on how they are cut: sorting them by
length inside the step changes nothing but rounding.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

AT_ONCE = 512  # rows: 0.3 s where several processes take one row each

# What a micro-batch costs a CPU beside its tokens, in tokens: each reads the weights and adds up their gradients. More
# (128, 256) take as long and need more memory (docs/performance.md).
FIXED_COST = 64


def cut_by_length(lengths: Sequence[int], count: int | None, most: int) -> list[list[int]]:
    """Share out pairs of these lengths over micro-batches of neighbours in length.

    A micro-batch costs its pairs times its longest one, and FIXED_COST. No micro-batch has more columns in all than
    `most` pairs as long as the longest of the step, and the cut is the cheapest for which this holds. So a micro-batch
    may hold more of the short pairs, and never needs more memory than the parameters of the run must allow for.

    Args:
        lengths: tokens of the n pairs.
        count: of micro-batches, so that n <= count * most; None: as many as make the cut the cheapest.

    Returns:
        places of pairs, every one in exactly one micro-batch, shortest micro-batch first; inside one in their order.
    """
    order = np.argsort(lengths, kind="stable")
    longest = np.asarray(lengths)[order]
    starts, ends = np.arange(len(order))[:, None], np.arange(1, len(order) + 1)[None]
    slots = (ends - starts) * longest  # of the pairs from `starts` up to `ends` in the order of length, [n, n]
    slots = np.where((ends > starts) & (slots <= most * longest[-1]), slots.astype(float), np.inf)
    bounds = _cheapest(slots) if count is None else _cheapest_of(slots, count)
    return [sorted(order[start:end].tolist()) for start, end in itertools.pairwise(bounds)]


def _cheapest(slots: np.ndarray) -> list[int]:
    """Where the micro-batches begin and end, [0, ..., n]."""
    costs, starts = np.zeros(len(slots) + 1), [0]  # of the cheapest cut up to each end, and where its last one starts
    for end in range(1, len(slots) + 1):
        found = costs[:end] + slots[:end, end - 1] + FIXED_COST
        starts.append(int(found.argmin()))
        costs[end] = found[starts[-1]]
    bounds = [len(slots)]
    while bounds[-1]:
        bounds.append(starts[bounds[-1]])
    return bounds[::-1]


def _cheapest_of(slots: np.ndarray, count: int) -> list[int]:
    """The same of the cuts into `count` micro-batches."""
    total, cuts = slots[0], []  # [n]: the least that the pairs up to each end cost in one micro-batch, in two, ...
    for _ in range(count - 1):
        sums = total[:-1, None] + slots[1:]  # the last micro-batch starts where the others ended
        cuts.append(sums.argmin(0) + 1)
        total = sums.min(0)
    bounds = [len(slots)]
    for start in reversed(cuts):
        bounds.append(int(start[bounds[-1] - 1]))
    return [0, *reversed(bounds)]


def share_of(lengths: Sequence[int], most: int, processes: int, rank: int, fewest: bool = True) -> list[list[int]]:
    """The micro-batches of one of the processes, as places of rows of these lengths.

    Every process has equally many, because their collective operations must meet: where there are fewer rows than
    that, some are empty. Neighbours in length fall to different processes, which so take about as long.

    The cheapest cut takes time with the cube of the rows: thousands, of an evaluation, are cut by AT_ONCE in the order
    of their lengths.

    Args:
        most: rows of a micro-batch, if they are the longest.
        fewest: as few micro-batches as can be, else as many as are cheapest.
    """
    at_once = max(AT_ONCE // (processes * most), 1) * processes * most
    order = np.argsort(lengths, kind="stable").tolist()
    found = []
    for start in range(0, len(order), at_once):
        places = sorted(order[start : start + at_once])
        own = [lengths[place] for place in places]
        each = math.ceil(len(places) / (processes * most))
        cut = cut_by_length(own, min(each * processes, len(own)) if fewest else None, min(most, len(own)))
        cut += [[]] * (-len(cut) % processes)
        found += [[places[place] for place in part] for part in cut[rank::processes]]
    return found
