"""Prompts of one split that nearly repeat a prompt of the other: a score on them would be a score on training data.

Two prompts are near if their sets of word trigrams have a Jaccard index of at least NEAR. Case, punctuation and system
turns, which many prompts share, do not count; one or two words count as a trigram. The index holds one split, the
smaller one; the other streams past it.

The search is exact, by prefix and length filters (C. Xiao et al., "Efficient similarity joins for near-duplicate
detection", WWW 2008): sets of sizes m and n with that index share at least NEAR / (1 + NEAR) (m + n) trigrams. Sorted
rarest first, a trigram at place p of one set can be the first that both have only if m - p is that many: that bounds n.
So an instruction that begins every prompt, whose trigrams are frequent and stand last, makes candidates only of sets so
small that it alone makes them near. MinHash (datasketch 2.0) took four times as long and finds most, not all;
SetSimilaritySearch 1.0.1 is exact but lists every near prompt, and took 800 times as long after such an instruction.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import groupby

from epsilon_dpo.pipeline.stage.files import Messages

NEAR = 0.8
_ROUNDING = 1e-9  # 0.8 * 15 is a little more than 12
# Thai to Myanmar, kana and Han are written without spaces: each sign counts as a word.
_UNSPACED = "\u0e00-\u109f\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def _trigrams(turns: Messages) -> frozenset[int]:
    """Hashes of all word trigrams of `turns`; empty if they hold no word.

    Python's own hash changes from process to process, which no result depends on: trigrams are only told apart by it.
    """
    words = _WORD.findall(" ".join(turn["content"] for turn in turns if turn["role"] != "system").casefold())
    if len(words) < 3:
        return frozenset([hash(tuple(words))] if words else [])
    return frozenset(map(hash, zip(words, words[1:], words[2:], strict=False)))


class NearPrompts:
    """An index of prompts: `add` them all, then ask."""

    def __init__(self) -> None:
        self._names: dict[frozenset[int], str] = {}
        self._frequency: Counter[int] = Counter()
        self._sets: list[frozenset[int]] = []  # in the order in which they were added
        self._index: dict[int, list[int]] = {}  # trigram: places of the sets that it stands early in, by their sizes

    def add(self, name: str, turns: Messages) -> None:
        """`turns` before the answer, of row `name`; of prompts with the same word trigrams the first is named."""
        trigrams = _trigrams(turns)
        if trigrams and self._names.setdefault(trigrams, name) == name:
            self._frequency.update(trigrams)

    def near(self, turns: Messages) -> tuple[str, float]:
        """Id and Jaccard index of a prompt with the same trigrams, else of the first near one; "" and 0.0 for none."""
        if not self._index and self._names:
            self._build()
        trigrams = _trigrams(turns)
        if trigrams in self._names:
            return self._names[trigrams], 1.0
        for place, _ in groupby(merge(*self._candidates(trigrams))):
            found = self._sets[place]
            common = len(trigrams & found)
            index = common / (len(trigrams) + len(found) - common)
            if index >= NEAR:
                return self._names[found], index
        return "", 0.0

    def _candidates(self, trigrams: frozenset[int]) -> Iterator[Iterable[int]]:
        """Places of all near sets and of some others: rising in each part, a place may be in several."""
        size = len(trigrams)
        least = _ceil(NEAR * size)
        known = self._rarest_first(trigram for trigram in trigrams if trigram in self._frequency)
        for place, trigram in enumerate(known, start=size - len(known)):
            # If the trigrams before it are in no near set, size - place are left to share.
            most = int((size - place) * (1 + NEAR) / NEAR - size + _ROUNDING)
            if most < least:
                return
            yield from self._of_sizes(self._index.get(trigram, []), least, most)

    def _of_sizes(self, places: list[int], least: int, most: int) -> Iterator[Iterable[int]]:
        """The part of `places` of each size in this range."""
        start = bisect_left(places, least, key=self._size)
        while start < len(places) and (size := self._size(places[start])) <= most:
            end = bisect_right(places, size, lo=start, key=self._size)
            yield map(places.__getitem__, range(start, end))
            start = end

    def _build(self) -> None:
        index = defaultdict(list)
        self._sets = list(self._names)
        for place in sorted(range(len(self._sets)), key=self._size):
            spare = self._size(place) - _ceil(NEAR * self._size(place))  # a near set has one of the first spare + 1
            for trigram in self._rarest_first(self._sets[place])[: spare + 1]:
                index[trigram].append(place)
        self._index = index

    def _size(self, place: int) -> int:
        return len(self._sets[place])

    def _rarest_first(self, trigrams: Iterable[int]) -> list[int]:
        return sorted(trigrams, key=lambda trigram: (self._frequency[trigram], trigram))


def _ceil(number: float) -> int:
    return math.ceil(number - _ROUNDING)
