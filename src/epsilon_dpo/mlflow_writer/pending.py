"""mlruns/pending: what a store did not take before the stage ended, kept until a later stage reaches the store.

Every call is one that may be repeated: a number keeps its time and step, a run is found by its `execution`.
"""

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from epsilon_dpo.pipeline.observability.child import PATIENCE_S
from epsilon_dpo.pipeline.observability.errors import redacted
from epsilon_dpo.pipeline.observability.tracker import mlruns

Message = dict[str, Any]


def folder() -> Path:
    return mlruns() / "pending"


def project() -> str:
    """An id of this project's rows on a server that others use, too; it moves with the project.

    With the file's inode: a copy of the project has another one, and so another id, since the locks that say which
    stages are alive are in the original. So has a project that moved to another disk.
    """
    file = mlruns() / ".project"
    with suppress(OSError):
        if not _is_written(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_suffix(".lock"), timeout=PATIENCE_S):  # of two first stages one makes it
                if not _is_written(file):
                    file.write_text(uuid.uuid4().hex, "utf-8")
        return f"{file.read_text('utf-8')}-{file.stat().st_ino}"
    return "unknown"


def _is_written(file: Path) -> bool:
    """Not one that another process has just made, or has made before it was killed."""
    return file.exists() and file.stat().st_size > 0


def is_ours(by: str | None) -> bool:
    """Whether this project may take back what project `by` said on a row. In mlruns/mlflow.db it always may: the
    other is the one that it was copied from, with its store."""
    return by == project() or not os.environ.get("MLFLOW_TRACKING_URI")


def kept(execution: str) -> Path:
    return folder() / f"{execution}.jsonl"


def lock(execution: str) -> FileLock:
    """Held by the process that writes this execution's record; its end, however it comes, releases it."""
    folder().mkdir(parents=True, exist_ok=True)
    return FileLock(kept(execution).with_suffix(".lock"), timeout=0)


def forget(execution: str) -> None:
    """Nothing of it waits."""
    for file in (kept(execution), kept(execution).with_suffix(".lock")):
        with suppress(OSError):
            file.unlink(missing_ok=True)


@contextmanager
def claimed(execution: str, wait_s: float = 0.0) -> Iterator[bool]:
    """Whether no living process writes this execution's record (any more); none does while the block runs."""
    try:
        own = lock(execution)
        own.acquire(timeout=wait_s)
    except (Timeout, OSError):  # an error is of a lock that another user made: a container, say
        yield False
        return
    try:
        yield True
    finally:
        own.release()


def keep(opening: Message, messages: Iterable[Message], uri: str) -> bool:
    """Leave `messages` to a later stage; False: the disk did not take them."""
    lines = [{**opening, "store": redacted(uri)}, *messages]
    file = kept(opening["execution"])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text("".join(redacted(json.dumps(line)) + "\n" for line in lines), "utf-8")
        partial.replace(file)
    except OSError:
        return False
    return True
