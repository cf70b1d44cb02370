"""The pairs of one optimizer step, cut into micro-batches so that little is padded.

Which pairs form a step is not decided here, and the step's mean does not depend on how they are cut: sorting them by
length inside the step changes nothing but rounding.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

AT_ONCE = 512  # rows: 0.3 s with micro-batches of one row


def cut_by_length(lengths: Sequence[int], count: int, most: int) -> list[list[int]]:
    """Share out pairs of these lengths over `count` micro-batches of neighbours in length.

    A micro-batch costs its pairs times its longest one; the cut is the cheapest whose every micro-batch costs no more
    than `most` pairs as long as the longest of the step. So it may hold more of the short ones, and never needs more
    memory than the parameters of the run must allow for.

    Args:
        lengths: tokens of the n >= count pairs, at most `count` times `most` of them.

    Returns:
        places of pairs, every one in exactly one micro-batch, shortest micro-batch first; inside one in their order.
    """
    order = np.argsort(lengths, kind="stable")
    longest = np.asarray(lengths)[order]
    n = len(order)
    starts, ends = np.arange(n)[:, None], np.arange(1, n + 1)[None]
    slots = (ends - starts) * longest  # of the pairs from `starts` up to `ends` in the order of length, [n, n]
    slots = np.where((ends > starts) & (slots <= most * longest[-1]), slots.astype(float), np.inf)
    total, cuts = slots[0], []  # [n]: the least that the pairs up to each end cost in one micro-batch, in two, ...
    for _ in range(count - 1):
        sums = total[:-1, None] + slots[1:]  # the last micro-batch starts where the others ended
        cuts.append(sums.argmin(0) + 1)
        total = sums.min(0)
    bounds = [n]
    for start in reversed(cuts):
        bounds.append(int(start[bounds[-1] - 1]))
    bounds = [0, *reversed(bounds)]
    return [sorted(order[start:end].tolist()) for start, end in itertools.pairwise(bounds)]


def share_of(lengths: Sequence[int], most: int, processes: int, rank: int) -> list[list[int]]:
    """The micro-batches of one of several processes, as places of rows of these lengths.

    Every process has equally many, because their collective operations must meet: where there are fewer rows than
    that, some are empty. Neighbours in length fall to different processes, which so take about as long.

    The cheapest cut takes time with the cube of the rows: thousands, of an evaluation, are cut by AT_ONCE in the order
    of their lengths.

    Args:
        most: rows of a micro-batch.
    """
    at_once = max(AT_ONCE // (processes * most), 1) * processes * most
    order = np.argsort(lengths, kind="stable").tolist()
    found = []
    for start in range(0, len(order), at_once):
        places = sorted(order[start : start + at_once])
        each = math.ceil(len(places) / (processes * most))
        own = [lengths[place] for place in places]
        cut = cut_by_length(own, min(each * processes, len(own)), min(most, len(own)))
        cut += [[]] * (each * processes - len(cut))
        found += [[places[place] for place in part] for part in cut[rank::processes]]
    return found
