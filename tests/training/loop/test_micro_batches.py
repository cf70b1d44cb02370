"""A step's pairs cut into micro-batches, against every cut there is."""

import itertools

import numpy as np
import pytest

from epsilon_dpo.training.loop.micro_batches import cut_by_length


def slots(cut, lengths):
    return sum(len(places) * max(lengths[place] for place in places) for places in cut)


@pytest.mark.parametrize("seed", range(40))
def test_no_cut_of_the_sorted_pairs_within_memory_is_cheaper(seed):
    draw = np.random.default_rng(seed)
    n = int(draw.integers(1, 10))
    count, lengths = int(draw.integers(1, n + 1)), draw.integers(1, 20, n).tolist()
    most = -(-n // count)
    cut = cut_by_length(lengths, count, most)
    assert sorted(itertools.chain(*cut)) == list(range(n)) and len(cut) == count and all(cut)
    assert all(slots([places], lengths) <= most * max(lengths) for places in cut)

    order = sorted(range(n), key=lambda place: (lengths[place], place))
    bounds = [(0, *inner, n) for inner in itertools.combinations(range(1, n), count - 1)]
    cuts = [[order[start:end] for start, end in itertools.pairwise(bound)] for bound in bounds]
    allowed = [one for one in cuts if all(slots([places], lengths) <= most * max(lengths) for places in one)]
    assert slots(cut, lengths) == min(slots(one, lengths) for one in allowed)


def test_a_micro_batch_of_short_pairs_holds_more_of_them():
    assert cut_by_length([90, 10, 10, 50, 10, 10], 3, 2) == [[1, 2, 4, 5], [3], [0]]


def test_one_micro_batch_is_left_as_it_came():
    assert cut_by_length([3, 1, 2], 1, 3) == [[0, 1, 2]]
