"""What an execution has computed so far, for the one that resumes after a kill: its finished batches, a line each.

The unit is a batch and not a row, because what shares a batch changes a row's floats by their rounding: whoever goes on
forms the same batches, takes the finished ones from here and computes the others, to the same bytes. The file lies in
the execution's scratch folder, which is named by everything that the result is made from and removed with success.

A line is a checksum and JSON, in which Python's floats come back to the last bit. After a loss of power the last lines
may be torn or hold anything: one that does not match its checksum is left out, and its batch computed again.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T")

FILE = "journal.jsonl"
SYNC_S = 1.0  # a loss of power costs the batches of this time; a killed process loses none
DIGITS = 16  # of a sha256


class Journal:
    """The finished batches of one execution.

    Args:
        folder: the execution's scratch folder, made with the first line; None: nothing is kept.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._path = None if folder is None else folder / FILE
        self._known: dict[str, Any] | None = None  # values by the digest of what they are of
        self._file: IO[bytes] | None = None
        self._synced = 0.0

    def of(self, what: Any, compute: Callable[[], T]) -> T:
        """What `compute` returns; if an execution before this one had got there, what it returned then.

        Args:
            what: names the batch among all of the stage's, and must tell it apart from every other. JSON.
            compute: returns JSON: numbers, text, lists, and objects with text as keys.

        Raises:
            OSError: the line cannot be written: the disk is full, say.
        """
        if self._path is None:
            return compute()
        if self._known is None:
            self._known = _read(self._path)
        name = _digest(json.dumps(what).encode())
        if name not in self._known:
            text = json.dumps(compute())
            self._append(name, text)
            self._known[name] = json.loads(text)  # as whoever resumes reads it: a tuple would be a list
        known: T = self._known[name]
        return known

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _append(self, name: str, found: str) -> None:
        assert self._path is not None
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
            if self._file.tell():
                self._file.write(b"\n")  # ends a torn line; an empty one is left out, too
        text = f"{name} {found}".encode()
        line = memoryview(f"{_digest(text)} ".encode() + text + b"\n")
        while line:  # a disk that becomes full takes a part of it first
            line = line[self._file.write(line) :]
        if time.monotonic() - self._synced >= SYNC_S:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()


def _read(path: Path) -> dict[str, Any]:
    """The values of all lines that are whole, by the digest of what they are of."""
    known = {}
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        checksum, _, text = line.partition(b" ")
        if text and checksum.decode("ascii", "replace") == _digest(text):
            name, _, found = text.decode().partition(" ")
            known[name] = json.loads(found)
    return known


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]
