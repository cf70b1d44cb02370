"""Messages written on their record: those of a running stage, and those that others left in mlruns/pending."""

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from epsilon_dpo.mlflow_writer import pending
from epsilon_dpo.mlflow_writer.pending import Message
from epsilon_dpo.mlflow_writer.server import Failure, failure, in_short, reach_server, say
from epsilon_dpo.pipeline.observability.errors import redacted

if TYPE_CHECKING:
    from epsilon_dpo.mlflow_writer.rows import Rows

ROWS_AT_ONCE = 50  # of metrics, in one call
STUCK_S = 12.0  # a store that has hung for this long, some calls, hangs at any other, too


class Backlog:
    """What waits in mlruns/pending for the store at `uri`.

    Attributes:
        written: the stages whose records are now written.
        elsewhere: how many records wait for another store, by its address.
        held: how many are held by another process.
        stuck: stages, with the error, whose records fail although the store takes others; these go on waiting.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.written: list[str] = []
        self.elsewhere: Counter[str] = Counter()
        self.held = 0
        self.stuck: list[str] = []
        self._stuck_s = 0.0  # spent on stuck records, one after the other
        self._files = iter(oldest_first())

    def deliver(self, pause: Callable[[], bool] = lambda: False) -> bool:
        """Oldest first, until `pause` says so after one; the next call goes on. Returns whether all were tried.

        Raises:
            Exception: the store's, where it takes nothing at present; what waits stays.
        """
        for file in self._files:
            with pending.claimed(file.stem) as free:
                if not file.exists():  # another stage has written it since
                    if free:
                        pending.forget(file.stem)  # the lock, which is new
                elif free:
                    self._deliver(file)
                else:
                    self.held += 1
            if pause():
                return False
        return True

    def _deliver(self, file: Path) -> None:
        started = time.monotonic()
        try:
            opening, *messages = (json.loads(line) for line in file.read_text("utf-8").splitlines())
            if (store := opening.pop("store")) != redacted(self.uri):
                self.elsewhere[store] += 1
                return
            _write_record(opening, messages, self.uri)
        except Exception as error:
            damaged = isinstance(error, ValueError | KeyError)  # what a power cut left
            kind = Failure.CALL if damaged else failure(error, self.uri)
            self._stuck_s += time.monotonic() - started
            unknown = isinstance(error, TypeError | AttributeError)  # messages of another version of this project
            if unknown or (kind is Failure.OUTAGE and self._stuck_s < STUCK_S and self._is_there()):
                self.stuck.append(f"{opening['name']} ({in_short(error)})")
                return
            if kind is not Failure.CALL:
                raise
            say(f"MLflow does not take the record in {file.with_suffix('.refused')} ({in_short(error)}).")
            file.replace(file.with_suffix(".refused"))
        else:
            self.written.append(opening["name"])
            self._stuck_s = 0.0
        pending.forget(file.stem)

    def _is_there(self) -> bool:
        """Whether the store answers now. Then a failure was one of that record, which must not hold up the others."""
        from epsilon_dpo.mlflow_writer.store import open_store

        try:
            reach_server(self.uri)
            open_store()
        except Exception:
            return False
        return True


def first_of(several: list[str]) -> str:
    return several[0] + f" and {len(several) - 1} more" * (len(several) > 1)


def oldest_first() -> list[Path]:
    """The files that wait; one that another stage has written meanwhile is gone."""
    found = []
    for file in pending.folder().glob("*.jsonl"):
        with suppress(OSError):
            found.append((file.stat().st_mtime, file))
    return [file for _, file in sorted(found)]


def _write_record(opening: Message, messages: Iterable[Message], uri: str) -> None:
    """The whole record of one execution, of which a part may be there."""
    from epsilon_dpo.mlflow_writer.record import Record

    missing: list[str] = []

    def refused(message: Message, error: Exception) -> None:
        missing.append(f"{message['kind']} of {opening['name']} ({in_short(error)})")

    write_all(Record(**opening, resumed=True), deque(messages), uri, refused)
    if missing:
        say(f"MLflow does not take {first_of(missing)}.")


def write_all(
    record: "Rows", waiting: "deque[Message]", uri: str, refused: Callable[[Message, Exception], None]
) -> None:
    """Write `waiting` in order; a message stays there until it is written, since the caller may be stopped any time.

    Args:
        refused: called with each message that the store will never take, which is then left out.

    Raises:
        Exception: any failure that is not one of a single call.
    """
    singly = 0  # rows of a refused call that are yet to be tried one by one, since it does not say which is at fault
    while waiting:
        together = _together(waiting, 1 if singly else ROWS_AT_ONCE)
        try:
            _write(record, together)
        except Exception as error:
            if failure(error, uri) is not Failure.CALL:
                raise
            if len(together) > 1:
                singly = len(together)
                continue
            refused(waiting[0], error)
        for _ in together:
            waiting.popleft()
        singly = max(0, singly - 1)


def _together(waiting: "deque[Message]", most: int) -> list[Message]:
    """What one call writes: `most` rows of metrics that follow each other, or one message."""
    if waiting[0]["kind"] != "metrics":
        return [waiting[0]]
    return list(takewhile(lambda message: message["kind"] == "metrics", islice(waiting, most)))


def _write(record: "Rows", messages: list[Message]) -> None:
    kind = messages[0]["kind"]
    contents = [{name: value for name, value in message.items() if name != "kind"} for message in messages]
    if kind == "metrics":
        record.metric_rows(contents)
    else:
        getattr(record, kind)(**contents[0])
