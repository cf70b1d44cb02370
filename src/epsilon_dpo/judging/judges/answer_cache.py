"""Replies that were paid for, kept by what was asked: nothing is asked twice, and a crash loses none that arrived."""

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable
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


class AnswerCache:
    """A SQLite file with one row per reply, each written when it arrives; threads and processes may share it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "answers.sqlite"
        self._lock = threading.Lock()
        try:
            self._rows = sqlite3.connect(self.path, timeout=60.0, isolation_level=None, check_same_thread=False)
            self._rows.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, request TEXT, reply TEXT)")
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path} cannot be used ({error}); move it away, and what it holds is asked and paid for again."
            ) from None

    def get(self, key: str, read: Callable[[Any], Read]) -> Read | None:
        """What `read` makes of the reply; one on which it raises ValueError (older versions kept such) is forgotten."""
        with self._lock:
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
        with self._lock:
            self._rows.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (key, json.dumps(request), json.dumps(reply))
            )
