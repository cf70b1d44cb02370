"""glibc's heap as the stages set it up (pipeline/machine/runtime.py): what is freed is kept, and gaps stay in memory.

On a CPU every tensor comes from this heap, so a process takes what the heap has reached and not what lives in it. The
rules are those of malloc for large chunks: the smallest freed chunk that is large enough, whose rest is free again; and
where none fits the heap grows at its end. Freed neighbours are joined only between micro-batches: before, nodes of the
autograd graph lie between them, small ones that live as long as the graph.
"""

from bisect import bisect_left, insort

OVERHEAD = 80  # bytes of a chunk beside the tensor: a header, and what aligns it to 64
ROUNDED = 16
SMALLEST = 1024  # smaller ones have lists of their own, and do not count


class Heap:
    """Attributes:
    most_live, reached: the most bytes that lived in it, and the furthest end that it has had.
    """

    def __init__(self) -> None:
        self.most_live = self.reached = 0
        self._live = self._end = 0
        self._used: dict[int, tuple[int, int, int]] = {}  # by name: start and size of the chunk, size of the tensor
        self._free: list[tuple[int, int]] = []  # size and start, sorted

    def take(self, name: int, size: int) -> None:
        if size < SMALLEST:
            return
        needed = -(-(size + OVERHEAD) // ROUNDED) * ROUNDED
        place = bisect_left(self._free, (needed, 0))
        if place < len(self._free):
            found, start = self._free.pop(place)
            if found > needed:
                insort(self._free, (found - needed, start + needed))
        else:
            start = self._end
            self._end += needed
        self._used[name] = start, needed, size
        self._live += size
        self.most_live, self.reached = max(self.most_live, self._live), max(self.reached, self._end)

    def give(self, name: int) -> None:
        if name in self._used:
            start, size, tensor = self._used.pop(name)
            insort(self._free, (size, start))
            self._live -= tensor

    def join(self) -> None:
        """Join neighbours, and with the heap's end those that reach it."""
        joined: list[tuple[int, int]] = []  # start and size
        for start, size in sorted((start, size) for size, start in self._free):
            if joined and sum(joined[-1]) == start:
                start, size = joined[-1][0], joined.pop()[1] + size
            joined.append((start, size))
        if joined and sum(joined[-1]) == self._end:
            self._end = joined.pop()[0]
        self._free = sorted((size, start) for start, size in joined)
