"""Replies that were paid for, kept by what was asked: nothing is asked twice, and a crash loses none that arrived."""

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Json

Read = TypeVar("Read")


def key_of(base_url: str, request: Json) -> str:
    """sha256 of the endpoint's address and the whole request, the model's name in it."""
    return hashlib.sha256(json.dumps([base_url, request], sort_keys=True).encode()).hexdigest()


def cache_folder() -> Path:
    """Beside `out` and `scratch`: neither DVC nor git nor an image looks into it."""
    return Path(os.environ.get("DVC_ROOT", ".")) / "cache" / "judge"


class DamagedCache(UserError):
    """The file is no SQLite database, or one that is damaged."""


class AnswerCache:
    """A SQLite file with one row per reply, each written when it arrives; threads and processes may share it.

    Each use of it raises UserError where SQLite cannot, DamagedCache if it never will.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "answers.sqlite"
        self._lock = threading.Lock()
        with self._usable():
            self._rows = sqlite3.connect(self.path, timeout=60.0, isolation_level=None, check_same_thread=False)
            self._rows.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, request TEXT, reply TEXT)")

    def get(self, key: str, read: Callable[[Any], Read]) -> Read | None:
        """What `read` makes of the reply; one on which it raises ValueError (older versions kept such) is forgotten."""
        with self._usable():
            row = self._rows.execute("SELECT reply FROM answers WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            try:
                return read(json.loads(row[0]))
            except ValueError:
                self._rows.execute("DELETE FROM answers WHERE key = ? AND reply = ?", (key, row[0]))
                return None

    def put(self, key: str, request: Json, reply: Json) -> None:
        """Keep `reply`; an earlier reply to the same request stays."""
        with self._usable():
            self._rows.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (key, json.dumps(request), json.dumps(reply))
            )

    def limits(self) -> list[int]:
        """Every `max_tokens` of a request that is kept, the largest first."""
        with self._usable():
            rows = self._rows.execute("SELECT DISTINCT json_extract(request, '$.max_tokens') FROM answers").fetchall()
        return sorted((row[0] for row in rows if isinstance(row[0], int)), reverse=True)

    def holds(self, model: str, wanted: Callable[[str, Json, str], bool]) -> bool:
        """Whether `wanted` is true of the key, request and reply (its JSON) of a row on `model`."""
        rows = "SELECT key, request, reply FROM answers WHERE json_extract(request, '$.model') = ?"
        with self._usable():
            return any(
                wanted(key, json.loads(request), reply) for key, request, reply in self._rows.execute(rows, (model,))
            )

    @contextmanager
    def _usable(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what SQLite adds to it
                if code == sqlite3.SQLITE_FULL:
                    raise  # pipeline/stage/disk.py has the sentence
                if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                    raise DamagedCache(
                        f"{self.path} is damaged ({error}); move it away, and all that it held is asked and paid for."
                    ) from None
                raise UserError(
                    f"{self.path} cannot be used for now ({error}); end what else holds it, or let its folder be read "
                    "and written, and keep it: what it holds was paid for."
                ) from None
