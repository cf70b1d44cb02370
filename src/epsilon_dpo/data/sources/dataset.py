"""What stage `fetch` hands on, whatever the source."""

import json
import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.stage.files import Messages, Row


@dataclass(frozen=True)
class Dataset:
    """Preference pairs as entire dialogues (TRL's conversational format, implicit prompt), the source's defects kept.

    Attributes:
        train, eval: no dialogue is in both, unless the source's own two files share one, or two members of a mixture do
            that are parted by different shares or rules (stage `validate` looks). A row is {"id", "chosen", "rejected"}
            and, where the data has them, "margin" (score of chosen minus rejected), "source" (the member of a mixture)
            and "flip_rate" (how likely the label is the wrong way round); further keys end in out/fetch. Lists, or
            collections that are read from disk.
        facts: content of dataset.json about the origin beside the row counts: source, revision, file hashes, ...
        dropped: {"id", "reason", "detail"} per row that makes no pair, whose reasons facts["dropped"] counts; None from
            a source that drops none.
        labelled: {"id", "text", "label", "part"} per text that a classifier may learn from (part `classifier`) or be
            tested on; None from a source without any.
    """

    train: Collection[Row]
    eval: Collection[Row]
    facts: dict[str, Any]
    dropped: Collection[Row] | None = None
    labelled: Collection[Row] | None = None


@dataclass(frozen=True)
class RowsOnDisk(Collection[Row]):
    """Rows of a file of JSON lines, read anew by each iteration: one at a time is in memory.

    Attributes:
        there: rows in the file.
        limit: a sample of so many, drawn with `seed`, in file order; None: all.
    """

    path: Path
    there: int
    limit: int | None = None
    seed: str = ""

    def __len__(self) -> int:
        return self.there if self.limit is None else min(self.limit, self.there)

    def __iter__(self) -> Iterator[Row]:
        with self.path.open(encoding="utf-8", newline="\n") as file:
            yield from map(json.loads, sample(file, self.there, len(self), self.seed))

    def __contains__(self, row: object) -> bool:
        return any(row == other for other in self)


def dialogue(prompt: str, answer: str) -> Messages:
    """One user turn and one assistant turn."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def sample(rows: Iterable[Any], there: int, wanted: int, seed: str) -> Iterator[Any]:
    """`wanted` of the `there` first rows, each set of them equally likely, in order (Knuth's selection sampling)."""
    rng, left = random.Random(seed), wanted
    for place, row in zip(range(there), rows, strict=False):
        if left == 0:
            return
        if left == there - place or rng.random() * (there - place) < left:
            left -= 1
            yield row
