"""The messages of one stage on their way to the store: in order, tried again, kept where they cannot be written."""

import json
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from epsilon_dpo.mlflow_writer import pending
from epsilon_dpo.mlflow_writer.delivery import Backlog, first_of, write_all
from epsilon_dpo.mlflow_writer.environment import environment
from epsilon_dpo.mlflow_writer.identity import made_by, report_mark
from epsilon_dpo.mlflow_writer.pending import Message
from epsilon_dpo.mlflow_writer.resources import SAMPLE_S, Resources
from epsilon_dpo.mlflow_writer.server import (
    LOGIN,
    OUTAGE_S,
    Failure,
    failure,
    in_short,
    is_out,
    note_outage,
    note_success,
    reach_server,
    say,
)
from epsilon_dpo.pipeline.observability.tracker import now

if TYPE_CHECKING:
    from filelock import BaseFileLock

    from epsilon_dpo.mlflow_writer.rows import Rows

RETRY_S = 5.0  # while the stage runs
OTHERS_S = 5.0  # at its end, for records of others; the last line of `make repro` takes as long as it needs
NEVER = float("-inf")  # when a store that has not failed failed last
FRESH_S = 1.0  # at its end, a failure so young is not tried again


class Outbox:
    """What a stage has said and MLflow does not have yet.

    Attributes:
        opening: the message `open`; `waiting` are those behind it that are not written.
        record: the run that they go to, once the store was reached.
        over: nothing is tried any more, because a local store is broken or the server refuses the login.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.opening: Message = {}
        self.waiting: deque[Message] = deque()
        self.record: Rows | None = None
        self.over = False
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._ended = False
        self._known_out = is_out(uri)  # and said by another stage
        self._failed_at = time.monotonic() if self._known_out else NEVER
        self._said: set[Failure] = set()
        self._closed = self._tried = self._others_done = False
        self._backlog: Backlog | None = None
        self._lock: BaseFileLock | None = None
        self._resources: Resources | None = None

    def listen(self, lines: Iterator[str]) -> None:
        """Read `lines` from now on, so that the stage's pipe cannot fill up."""
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()

    def run(self) -> None:
        """Take and write until the lines end; what the store did not take by then is in `waiting`."""
        while not self._ended:
            self._take()
            if self._is_due():
                self._deliver()

    def is_unanswered(self) -> bool:
        """Whether the store took nothing at all, or failed last."""
        return self.record is None or self._failed_at > NEVER

    def keep(self) -> bool:
        """Whether something had to be left to a later stage, and was; also of a process that is stopped in `run`."""
        while not self._inbox.empty():
            self._accept(self._inbox.get())
        execution = self.opening.get("execution")
        left = bool(self.waiting) and self._has_run()
        done = left and pending.keep(self.opening, self.waiting, self.uri)
        if left and not done:
            say(f"mlruns/pending cannot be written: what MLflow has not taken of {self.opening['name']} is lost.")
        if execution and not done:
            pending.forget(execution)
        if self._lock is not None:
            self._lock.release()
        return done

    def _read(self, lines: Iterator[str]) -> None:
        try:
            for line in lines:
                self._inbox.put(self._completed(json.loads(line)))
        except Exception as error:  # the last line of a process that was killed while it wrote it
            say(f"a message of the stage cannot be read, so its record ends ({in_short(error)}).")
        finally:
            self._inbox.put(None)  # which `_take` waits for

    def _completed(self, message: Message) -> Message:
        """`message` with what is known at this moment only."""
        if message["kind"] == "open":  # as early as it can be: what is kept of this stage needs it, too
            pid = message.pop("pid")
            message["environment"] = environment(Path.cwd()) | made_by(message.pop("started_as", None) or pid)
            self._resources = Resources(pid, message["at"])
            if message["fingerprint"] is not None:
                message |= {"folder": str(Path.cwd()), "mark": report_mark()}
                threading.Thread(target=self._sample, daemon=True).start()
        elif message["kind"] == "metrics" and message["step"] and self._resources is not None:
            message["resources"] = self._resources.of_row(message["metrics"], message["at"])
        return message

    def _sample(self) -> None:
        """As long as the stage lives."""
        number = 0
        while self._resources is not None:
            time.sleep(SAMPLE_S)
            number += 1
            if not (found := self._resources.sample()):
                return
            self._inbox.put({"kind": "metrics", "metrics": {}, "step": number, "at": now(), "resources": found})

    def _take(self) -> None:
        """At least one message, or until the next try is due; and all that are there."""
        idle = self.over or not (self.waiting or (self.opening and self.record is None))
        with suppress(queue.Empty):
            self._accept(
                self._inbox.get(timeout=None if idle else max(0.0, self._failed_at + RETRY_S - time.monotonic()))
            )
        while not self._inbox.empty():
            self._accept(self._inbox.get())

    def _accept(self, message: Message | None) -> None:
        if message is None:
            self._ended = True
            if self._has_run() and not self._closed:
                self.waiting.append({"kind": "close", "status": "KILLED", "at": now()})
        elif message["kind"] == "open":
            self.opening = {name: value for name, value in message.items() if name != "kind"}
        elif not (self._closed or (self.over and not self._has_run())):
            self.waiting.append(message)
            self._closed = message["kind"] == "close"

    def _has_run(self) -> bool:
        return self.opening.get("fingerprint") is not None

    def _is_due(self) -> bool:
        others = self._ended and not self._others_done  # whose delivery the end of the pipe had interrupted
        if self.over or not self.opening or not (self.record is None or self.waiting or others):
            return False
        age = time.monotonic() - self._failed_at
        return age >= RETRY_S or (self._ended and not self._known_out and age >= FRESH_S)

    def _deliver(self) -> None:
        try:
            if self.record is None or self._failed_at > NEVER:
                reach_server(self.uri)
            if self.record is None:
                self._open()
            assert self.record is not None
            write_all(self.record, self.waiting, self.uri, self._refused)
            if not self._others_done:
                self._deliver_others()
        except Exception as error:
            self._failed(error)
            return
        if self._failed_at > NEVER:
            note_success(self.uri)
            if Failure.OUTAGE in self._said:
                say(f"the MLflow record of {self.opening['name']} resumes.")
                self._said.discard(Failure.OUTAGE)
            self._failed_at = NEVER
            self._known_out = False

    def _deliver_others(self) -> None:
        """What other stages left, and the rows of processes that are gone: their faults cost this stage nothing, and
        what it says itself goes before them."""
        backlog = self._backlog = self._backlog or Backlog(self.uri)
        until = time.monotonic() + OTHERS_S
        self._others_done = True
        try:
            try:
                self._others_done = backlog.deliver(
                    lambda: time.monotonic() > until if self._ended else not self._inbox.empty()
                )
            finally:
                for name in backlog.written:
                    say(f"the MLflow record of {name}, which had waited in mlruns/pending, is written.")
                backlog.written.clear()
                if backlog.stuck and self._others_done:
                    say(f"MLflow is there but fails at {first_of(backlog.stuck)}, which waits in mlruns/pending.")
            if self._others_done:
                self.record.close_dead()  # type: ignore[union-attr]
        except Exception as error:
            if failure(error, self.uri) is Failure.OUTAGE:
                raise
            say(f"the records of other stages could not be completed ({in_short(error)}).")

    def _open(self) -> None:
        from epsilon_dpo.mlflow_writer.record import Record  # mlflow, whose import can fail and must then be said
        from epsilon_dpo.mlflow_writer.rows import Rows

        if self.opening["fingerprint"] is None:
            self.record = Rows()
            return
        if self._lock is None:
            with suppress(OSError):  # where mlruns/ cannot be written, a server takes the record all the same
                lock = pending.lock(self.opening["execution"])
                lock.acquire()
                self._lock = lock
        tried, self._tried = self._tried, True
        self.record = Record(**self.opening, resumed=tried)

    def _refused(self, message: Message, error: Exception) -> None:
        if Failure.CALL not in self._said:
            self._said.add(Failure.CALL)
            what = f"{message['kind']} of {self.opening['name']}"
            say(f"MLflow does not take {what} ({in_short(error)}); the stage goes on.")

    def _failed(self, error: Exception) -> None:
        kind = failure(error, self.uri)
        self._failed_at = time.monotonic()
        self.over = kind is not Failure.OUTAGE
        name = self.opening["name"]
        if kind in self._said or (kind is Failure.OUTAGE and self._known_out):
            return
        self._said.add(kind)
        waits = "what is missing waits in mlruns/pending for a stage that reaches the server"
        end = f", and {waits}" if self._has_run() else ", which is not repeated"
        if kind is Failure.OUTAGE:
            noted = f"; this is not said again for {OUTAGE_S / 60:.0f} min" if note_outage(self.uri) else ""
            say(f"no MLflow record of {name} for now ({in_short(error)}); the stage goes on{end}{noted}.")
        elif kind is Failure.LOGIN:
            say(f"the MLflow server refuses {name} ({in_short(error)}): {LOGIN}; the stage goes on{end}.")
        else:
            self.waiting.clear()
            self.opening["fingerprint"] = None  # nothing is kept
            say(f"no MLflow record of {name} from here on ({in_short(error)}); the stage goes on.")
