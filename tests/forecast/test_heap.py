"""The heap by hand: best fit, what is cut off is free again, neighbours are joined only when asked."""

from epsilon_dpo.forecast.heap import OVERHEAD, Heap

BLOCK = 10_000 - OVERHEAD  # takes 10,000 bytes


def test_a_freed_chunk_is_used_again() -> None:
    heap = Heap()
    for name, size in enumerate([BLOCK, 2 * BLOCK + OVERHEAD, BLOCK]):
        heap.take(name, size)
    assert heap.reached == 40_000 and heap.most_live == 4 * BLOCK + OVERHEAD
    heap.give(1)
    heap.give(0)
    heap.take(3, BLOCK)  # where 0 was: the smallest that is large enough
    heap.take(4, BLOCK)
    heap.take(5, BLOCK)  # both where 1 was
    assert heap.reached == 40_000
    heap.take(6, BLOCK)
    assert heap.reached == 50_000


def test_two_neighbours_are_no_room_for_one_of_both_sizes_until_they_are_joined() -> None:
    heap = Heap()
    for name in range(3):
        heap.take(name, BLOCK)
    heap.give(0)
    heap.give(1)
    heap.take(3, 2 * BLOCK + OVERHEAD)
    assert heap.reached == 50_000
    heap.join()
    heap.take(4, 2 * BLOCK + OVERHEAD)
    assert heap.reached == 50_000
    heap.give(3)
    heap.join()  # the last one, and the heap ends before it
    heap.take(5, 3 * BLOCK)
    assert heap.reached == 30_000 + 3 * BLOCK + OVERHEAD


def test_small_ones_do_not_count() -> None:
    heap = Heap()
    heap.take(0, 100)
    heap.give(0)
    assert heap.reached == heap.most_live == 0
