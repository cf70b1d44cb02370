"""mlruns/pending: what a store did not take before its stage ended, until a later stage finds the store again.

Every call is one that may be repeated: a number keeps its time and step, a run is found by its `execution`.
"""

import json
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from epsilon_dpo.mlflow_writer.server import Failure, failure, in_short, mlruns, say
from epsilon_dpo.pipeline.observability.errors import redacted

if TYPE_CHECKING:
    from epsilon_dpo.mlflow_writer.record import Rows

Message = dict[str, Any]
ROWS_AT_ONCE = 50  # of metrics, in one call


def folder() -> Path:
    return mlruns() / "pending"


def project() -> str:
    """An id of this project's rows on a server that others use, too; it moves with the project."""
    file = mlruns() / ".project"
    with suppress(OSError):
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(uuid.uuid4().hex, "utf-8")
        return file.read_text("utf-8")
    return "unknown"


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
def claimed(execution: str) -> Iterator[bool]:
    """Whether no living process writes this execution's record; none does while the block runs."""
    try:
        own = lock(execution)
        own.acquire()
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


def deliver_kept(uri: str) -> None:
    """Write what other stages left for the store at `uri`.

    Raises:
        Exception: the store's, where it takes nothing at present; what waits stays.
    """
    for file in _oldest_first():
        with claimed(file.stem) as free:
            if not free or not file.exists():
                continue
            try:
                opening, *messages = (json.loads(line) for line in file.read_text("utf-8").splitlines())
                if opening.pop("store") != redacted(uri):
                    continue
                write(opening, messages, uri)
            except Exception as error:
                damaged = isinstance(error, ValueError | KeyError)  # what a power cut left
                if not damaged and failure(error, uri) is not Failure.CALL:
                    raise
                say(f"MLflow does not take the record in {file.with_suffix('.refused')} ({in_short(error)}).")
                file.replace(file.with_suffix(".refused"))
            else:
                say(f"the MLflow record of {opening['name']}, which had waited in mlruns/pending, is written.")
            forget(file.stem)


def _oldest_first() -> list[Path]:
    """The files that wait; one that another stage has written meanwhile is gone."""
    found = []
    for file in folder().glob("*.jsonl"):
        with suppress(OSError):
            found.append((file.stat().st_mtime, file))
    return [file for _, file in sorted(found)]


def write(opening: Message, messages: Iterable[Message], uri: str) -> None:
    """The whole record of one execution, of which a part may be there."""
    from epsilon_dpo.mlflow_writer.record import Record

    record = Record(**opening, resumed=True)
    waiting = deque(messages)
    while waiting:
        count = 0
        try:
            count = write_next(record, waiting)
        except Exception as error:
            if failure(error, uri) is not Failure.CALL:
                raise
            say(f"a {waiting[0]['kind']} of {opening['name']} is missing in MLflow ({in_short(error)}).")
        for _ in range(max(count, 1)):
            waiting.popleft()


def write_next(record: "Rows", waiting: "deque[Message]") -> int:
    """Write the first of `waiting`, rows of metrics together.

    Returns:
        how many are written; they stay in `waiting`, since the caller may be stopped at any moment.
    """
    if waiting[0]["kind"] == "metrics":
        rows: list[Message] = []
        for message in waiting:
            if message["kind"] != "metrics" or len(rows) == ROWS_AT_ONCE:
                break
            rows.append({name: value for name, value in message.items() if name != "kind"})
        record.metric_rows(rows)
        return len(rows)
    message = dict(waiting[0])
    getattr(record, message.pop("kind"))(**message)
    return 1
