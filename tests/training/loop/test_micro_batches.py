"""A step's pairs cut into micro-batches, against every cut there is."""

import itertools

import numpy as np
import pytest

from epsilon_dpo.training.loop.micro_batches import AT_ONCE, FIXED_COST, cut_by_length, share_of


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


@pytest.mark.parametrize("seed", range(20))
def test_a_processor_alone_takes_as_many_micro_batches_as_are_cheapest(seed):
    """What a micro-batch costs beside its tokens decides: the cheapest of any number, within the same memory."""
    draw = np.random.default_rng(seed)
    n, most = int(draw.integers(1, 9)), int(draw.integers(1, 5))
    lengths = draw.integers(1, 600, n).tolist()
    cut = share_of(lengths, most, processes=1, rank=0, fewest=False)
    assert sorted(itertools.chain(*cut)) == list(range(n)) and all(cut)

    cost = lambda one: slots(one, lengths) + FIXED_COST * len(one)  # noqa: E731
    order = sorted(range(n), key=lambda place: (lengths[place], place))
    inner = itertools.chain(*(itertools.combinations(range(1, n), count) for count in range(n)))
    cuts = [[order[start:end] for start, end in itertools.pairwise((0, *one, n))] for one in inner]
    allowed = [one for one in cuts if all(slots([part], lengths) <= most * max(lengths) for part in one)]
    assert cost(cut) == min(cost(one) for one in allowed) and cut in [[sorted(p) for p in one] for one in allowed]


def test_pairs_that_fit_into_one_micro_batch_are_cut_where_padding_costs_more():
    assert share_of([100] * 6 + [500] * 2, most=8, processes=1, rank=0, fewest=False) == [[0, 1, 2, 3, 4, 5], [6, 7]]
    assert share_of([100] * 7 + [105], most=8, processes=1, rank=0, fewest=False) == [[0, 1, 2, 3, 4, 5, 6, 7]]


def test_a_micro_batch_of_short_pairs_holds_more_of_them():
    assert cut_by_length([90, 10, 10, 50, 10, 10], 3, 2) == [[1, 2, 4, 5], [3], [0]]


def test_one_micro_batch_is_left_as_it_came():
    assert cut_by_length([3, 1, 2], 1, 3) == [[0, 1, 2]]


@pytest.mark.parametrize(("rows", "most", "processes"), [(2500, 4, 3), (2500, 1, 1), (600, 300, 4), (513, 2, 8)])
def test_thousands_of_rows_are_cut_by_hundreds(rows, most, processes, monkeypatch):
    """The cheapest cut of 5,000 evaluation rows at once takes minutes, and of all processes no less."""
    seen = []

    def cut(lengths, count, most):
        seen.append(len(lengths))
        return cut_by_length(lengths, count, most)

    monkeypatch.setattr("epsilon_dpo.training.loop.micro_batches.cut_by_length", cut)
    lengths = np.random.default_rng(0).integers(1, 300, rows).tolist()
    shares = [share_of(lengths, most, processes, rank) for rank in range(processes)]
    assert max(seen) <= max(AT_ONCE, most * processes)
    assert sorted(itertools.chain(*itertools.chain(*shares))) == list(range(rows))
    assert {len(share) for share in shares} == {-(-rows // (most * processes))}
    parts = [part for share in shares for part in share if part]
    assert slots(parts, lengths) < 1.1 * sum(lengths) or most * processes > AT_ONCE / 2
    assert all(slots([part], lengths) <= most * max(lengths) for part in parts)
