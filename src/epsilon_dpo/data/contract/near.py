"""Prompts of one split that nearly repeat a prompt of the other: a score on them would be a score on training data.

Two prompts are near if their sets of word trigrams have a Jaccard index of at least NEAR. Case, punctuation and system
turns, which many prompts share, do not count; one or two words count as a trigram. The index holds one split, the
smaller one; the other streams past it.

The search is exact, by a prefix filter (C. Xiao et al., "Efficient similarity joins for near-duplicate detection", WWW
2008): sets of sizes m and n with that index share at least NEAR max(m, n) trigrams, so that, both sorted alike, rarest
first, they share one of their first trigrams. MinHash (datasketch 2.0) took four times as long and finds most, not all.
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
        self._index: dict[int, list[frozenset[int]]] = {}
        self._places: dict[frozenset[int], int] = {}

    def add(self, name: str, turns: Messages) -> None:
        """`turns` before the answer, of row `name`; of prompts with the same word trigrams the first is named."""
        trigrams = _trigrams(turns)
        if trigrams and self._names.setdefault(trigrams, name) == name:
            self._frequency.update(trigrams)

    def near(self, turns: Messages) -> tuple[str, float]:
        """Id and Jaccard index of a prompt with the same trigrams, else of the first near one; "" and 0.0 for none."""
        if not self._index and self._names:
            self._index = self._built()
        trigrams = _trigrams(turns)
        if trigrams in self._names:
            return self._names[trigrams], 1.0
        known = [trigram for trigram in trigrams if trigram in self._frequency]
        candidates = {found for trigram in self._rarest(known, len(trigrams)) for found in self._index.get(trigram, ())}
        for found in sorted(candidates, key=self._places.__getitem__):
            common = len(trigrams & found)
            index = common / (len(trigrams) + len(found) - common)
            if index >= NEAR:
                return self._names[found], index
        return "", 0.0

    def _built(self) -> dict[int, list[frozenset[int]]]:
        index = defaultdict(list)
        self._places = {trigrams: place for place, trigrams in enumerate(self._names)}
        for trigrams in self._names:
            for trigram in self._rarest(trigrams, len(trigrams)):
                index[trigram].append(trigrams)
        return index

    def _rarest(self, trigrams: Collection[int], size: int) -> list[int]:
        """Those of a set of `size` of which a near set has at least one; `trigrams` are its members in the index."""
        spare = len(trigrams) - math.ceil(NEAR * size - 1e-9)  # 0.8 * 15 is a little more than 12
        if spare < 0:
            return []
        return sorted(trigrams, key=lambda trigram: (self._frequency[trigram], trigram))[: spare + 1]
