"""Pairs from single answers with a label: a good and a bad answer to one prompt, on disk and not in memory."""

import hashlib
import itertools
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from epsilon_dpo.data.shapes.interface import Dropped, Half, Pair
from epsilon_dpo.pipeline.stage.files import prompt_identity

UNPAIRED = "unpaired"  # the reason of dropped.jsonl
IN_ORDER = """
SELECT first, good, id, prompt, answer FROM
  (SELECT *, MIN(number) OVER (PARTITION BY key) AS first FROM halves) ORDER BY first, good, number
"""


class Halves:
    """Labelled answers that wait for one of the other label; a file in `scratch` while in use."""

    def __init__(self, scratch: Path) -> None:
        self._path = scratch / "halves.sqlite"
        self._base: sqlite3.Connection | None = None

    def __enter__(self) -> "Halves":
        return self

    def __exit__(self, *_: object) -> None:
        if self._base is not None:
            self._base.close()
            self._path.unlink()

    def add(self, identity: str, half: Half) -> None:
        if self._base is None:
            self._base = sqlite3.connect(self._path)
            self._base.execute("PRAGMA journal_mode = OFF")
            self._base.execute(
                "CREATE TABLE halves "
                "(number INTEGER PRIMARY KEY, key BLOB, good INTEGER, id TEXT, prompt TEXT, answer TEXT)"
            )
        prompt, answer = json.dumps(half.prompt), json.dumps(half.answer)
        key = hashlib.sha256(json.dumps(prompt_identity(half.prompt)).encode()).digest()
        row = (key, half.good, identity, prompt, answer)
        self._base.execute("INSERT INTO halves (key, good, id, prompt, answer) VALUES (?, ?, ?, ?, ?)", row)

    def paired(self) -> Iterator[tuple[str, Pair | Dropped]]:
        """(id, pair) of the n-th good and the n-th bad answer to each prompt, prompt by prompt; the rest as dropped.

        Both answers get the good one's prompt, to the character; the bad one's may have other white space around it.
        """
        if self._base is None:
            return
        for _, rows in itertools.groupby(self._base.execute(IN_ORDER), key=lambda row: row[0]):
            entire = list(rows)  # the answers to one prompt
            good, bad = ([row for row in entire if row[1] == label] for label in (1, 0))
            for (_, _, first, prompt, chosen), (_, _, second, _, rejected) in zip(good, bad, strict=False):
                before = json.loads(prompt)
                yield f"{first}+{second}", Pair(before + json.loads(chosen), before + json.loads(rejected))
            pairs = min(len(good), len(bad))
            for row in good[pairs:] + bad[pairs:]:  # one of which is empty
                other = "bad" if row[1] else "good"
                yield row[2], Dropped(UNPAIRED, f"no {other} answer to its prompt is left to pair it with")
