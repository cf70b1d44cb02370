"""Prompts of one split that nearly repeat a prompt of the other: a score on them would be a score on training data.

Two prompts are near if their sets of word triples have a Jaccard index of at least NEAR, case, punctuation and roles
aside; a prompt of up to two words is one piece. The index holds one split, the smaller one; the other streams past it.

The search is exact, by a prefix filter (C. Xiao et al., "Efficient similarity joins for near-duplicate detection", WWW
2008): sets of sizes m and n with that index share at least NEAR max(m, n) pieces, so that, both sorted alike, rarest
first, they share one of their first pieces. MinHash (datasketch 2.0) took four times as long and finds most, not all.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection

from epsilon_dpo.pipeline.stage.files import Messages

NEAR = 0.8
# Thai to Myanmar, kana and Han are written without spaces: each sign counts as a word.
_UNSPACED = "\u0e00-\u109f\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def _pieces(turns: Messages) -> frozenset[int]:
    """Hashes of all word triples of `turns`; empty if they hold no word.

    Python's own hash changes from process to process, which no result depends on: pieces are only told apart by it.
    """
    words = _WORD.findall(" ".join(turn["content"] for turn in turns).casefold())
    if len(words) < 3:
        return frozenset([hash(tuple(words))] if words else [])
    return frozenset(map(hash, zip(words, words[1:], words[2:], strict=False)))


class NearPrompts:
    """An index of prompts: `add` them all, then ask."""

    def __init__(self) -> None:
        self._names: dict[frozenset[int], str] = {}
        self._frequency: Counter[int] = Counter()
        self._index: dict[int, list[frozenset[int]]] = {}
        self._places: dict[frozenset[int], int] = {}

    def add(self, name: str, turns: Messages) -> None:
        """`turns` before the answer, of row `name`; of prompts with the same word triples the first is named."""
        pieces = _pieces(turns)
        if pieces and self._names.setdefault(pieces, name) == name:
            self._frequency.update(pieces)

    def nearest(self, turns: Messages) -> tuple[str, float]:
        """Id and Jaccard index of the most similar prompt, the first of several; "" and 0.0 if none is near."""
        if not self._index and self._names:
            self._index = self._built()
        pieces, best, share = _pieces(turns), "", 0.0
        known = [piece for piece in pieces if piece in self._frequency]
        candidates = {found for piece in self._rarest(known, len(pieces)) for found in self._index.get(piece, ())}
        for found in sorted(candidates, key=self._places.__getitem__):
            common = len(pieces & found)
            index = common / (len(pieces) + len(found) - common)
            if index >= NEAR and index > share:
                best, share = self._names[found], index
        return best, share

    def _built(self) -> dict[int, list[frozenset[int]]]:
        index = defaultdict(list)
        self._places = {pieces: place for place, pieces in enumerate(self._names)}
        for pieces in self._names:
            for piece in self._rarest(pieces, len(pieces)):
                index[piece].append(pieces)
        return index

    def _rarest(self, pieces: Collection[int], size: int) -> list[int]:
        """Those of a set of `size` of which a near set has at least one; `pieces` are its members in the index."""
        spare = len(pieces) - math.ceil(NEAR * size - 1e-9)  # 0.8 * 15 is a little more than 12
        return sorted(pieces, key=lambda piece: (self._frequency[piece], piece))[: spare + 1] if spare >= 0 else []
