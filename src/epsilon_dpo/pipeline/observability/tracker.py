"""Tracking with MLflow, from the side of a stage: it cannot fail, block or slow down what it tracks.

MLflow runs in a process of its own (child.py, process.py) that reads JSON lines from a pipe. Its import and its network
waits pass beside the stage's own work, and whatever goes wrong there costs one line on stderr. Nothing but the standard
library, child.py and errors.py is imported here, because every stage imports this file.
"""

import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from epsilon_dpo.pipeline.observability import child
from epsilon_dpo.pipeline.observability.child import NETWORK_LIMITS, Forked, Leader, start_process
from epsilon_dpo.pipeline.observability.errors import redacted

# A stage that is done waits this long for its record to be written; a server that does not answer costs no more.
FLUSH_TIMEOUT_S = 12.0
TERMINATE_TIMEOUT_S = 2.0  # for a process that is given up to tidy up and to keep what is not written
KEPT = 3  # exit code of a child that was given up and has left its messages to a later one


_waiting: "list[subprocess.Popen[str] | Forked]" = []  # the process that start_early started, until a Tracker takes it


def start_early(leader: Leader | None = None) -> None:
    """Start the process of this stage's Tracker, unless it is there: it imports MLflow beside what the stage imports.

    Args:
        leader: the `dvc` that has started the stage.
    """
    if not _waiting:
        with suppress(OSError):  # the Tracker tries again, and says what is wrong
            _waiting.append(start_process(leader))


def let_go() -> None:
    """In a fork of a stage that is none: its process for MLflow ends when nobody holds the pipe any more."""
    while _waiting:
        process = _waiting.pop()
        if isinstance(process, Forked):
            process.let_go()
        elif process.stdin is not None:
            process.stdin.close()


class Tracker:
    """One MLflow run: opened when the stage starts, live while it runs, closed with its status."""

    def __init__(
        self,
        name: str,
        fingerprint: str | None,
        params: dict[str, Any],
        inputs: dict[str, str],
        folders: Sequence[Path] = (),
    ) -> None:
        """
        Args:
            name: that of the stage and its run, e.g. align@dpo; also the name of the MLflow run.
            fingerprint: hash of what the stage's result is made from (fingerprint.py). None: no run is opened, and only
                `mark_compared` may be used, which writes on the runs of others; as nothing is kept of it for a later
                stage, the end waits until it is written.
            params: the declared params, by dotted key.
            inputs: sha256 of each declared dependency, by path.
            folders: the outputs, whose small files become artifacts after success.
        """
        self.name = name
        self.folders = folders
        self._opening: dict[str, Any] = {"name": name, "fingerprint": fingerprint, "params": params, "inputs": inputs}
        self._opening |= {
            "at": now(),
            "execution": uuid.uuid4().hex,
            "pid": os.getpid(),
            "started_as": child.started_as,
        }
        self._has_run = fingerprint is not None
        self._messages: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[str] | Forked | None = None

    def __enter__(self) -> "Tracker":
        try:
            self._process = _waiting.pop() if _waiting else start_process(None)
        except OSError as error:
            self._say(f"no MLflow run for {self.name} ({error})")
        # Written here and not by the thread: a stage that is killed at once leaves a run that says so.
        self._write(_line("open", **self._opening))
        threading.Thread(target=self._write_all, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._has_run:
            if kind is None:
                for folder in self.folders:
                    own = folder.parts[1:2] == (self.name.partition("@")[0],)
                    self._send("artifacts", folder=str(folder), at=now(), inside=None if own else folder.name)
            else:
                self.set_tags({"error": redacted(f"{kind.__name__}: {error}")[:1000]})
            status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
            self._send("close", status=status, at=now())
        self._messages.put(None)
        if self._process is None:
            return
        try:
            if self._process.wait(FLUSH_TIMEOUT_S if self._has_run else None):
                self._say(f"the MLflow process of {self.name} ended with code {self._process.returncode}")
        except subprocess.TimeoutExpired:
            self._process.terminate()  # it keeps what is not written, and notes a server that hangs
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(TERMINATE_TIMEOUT_S)
            kept = " and waits in mlruns/pending for a later stage" * (self._process.returncode == KEPT)
            self._say(f"the MLflow run of {self.name} was not written within {FLUSH_TIMEOUT_S:.0f} s{kept}")
        finally:
            self._process.kill()
            self._process.wait()

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Metrics of this run, by name; `step` counts optimizer steps."""
        self._send("metrics", metrics=metrics, step=step or 0, at=now())

    def set_tags(self, tags: dict[str, str]) -> None:
        """Text by which runs are found and filtered."""
        self._send("tags", tags=tags)

    def log_to_policy(self, policy_sha256: str, metrics: dict[str, float], run: str | None = None) -> None:
        """Metrics of a policy, written also on the row of the align run that made it: `run`, or the stage's own."""
        run = run or self.name.partition("@")[2]
        self._send("policy_metrics", run=run, policy_sha256=policy_sha256, metrics=metrics, at=now())

    def mark_compared(self, policies: list[dict[str, Any]]) -> None:
        """Make the align rows of a report complete, and tag them `in_report`, so that the UI can show just these.

        A row that is missing (the store was deleted, the result came from DVC's cache) is written from the outputs.

        Args:
            policies: per run of the report its `run`, `policy_sha256`, `params` (as the stage align declares them),
                `metrics` (final ones, by name) and `curve` (the rows of its metrics.jsonl).
        """
        self._send("compared", policies=policies, at=now())

    def _send(self, kind: str, **content: Any) -> None:
        self._messages.put(_line(kind, **content))

    def _write_all(self) -> None:
        """Hand the messages to the child; a full pipe blocks this thread only."""
        while (message := self._messages.get()) is not None:
            self._write(message)
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError, ValueError):
                self._process.stdin.close()

    def _write(self, message: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError, ValueError):  # the child is gone; __exit__ says so
                self._process.stdin.write(message)
                self._process.stdin.flush()

    def _say(self, what: str) -> None:
        with suppress(OSError, ValueError):  # of a terminal that is closed: the result is published already
            print(f"tracking: {what}; the stage goes on.", file=sys.stderr, flush=True)


def deliver_waiting() -> None:
    """Write what earlier stages left in mlruns/pending, however long it takes; nothing is said where nothing waits."""
    if any((mlruns() / "pending").glob("*.jsonl")):
        command = [sys.executable, "-m", "epsilon_dpo.mlflow_writer.backlog"]
        subprocess.run(command, stdout=subprocess.DEVNULL, env=NETWORK_LIMITS | os.environ, check=False)


def are_marked(policies: list[dict[str, Any]]) -> bool:
    """Whether the local store is as it was when these rows were last marked, which is cheaper to see than to do."""
    with suppress(OSError):
        return not os.environ.get("MLFLOW_TRACKING_URI") and _marks_file().read_text("utf-8") == _marks(policies)
    return False


def note_marked(policies: list[dict[str, Any]]) -> None:
    """For `are_marked`, by the process that has written them; a server's rows are marked every time."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        with suppress(OSError):
            _marks_file().write_text(_marks(policies), "utf-8")


def mlruns() -> Path:
    """The folder of the local store, and of what waits for a server. Neither git nor DVC looks there."""
    return Path(os.environ.get("DVC_ROOT", ".")) / "mlruns"


def _marks_file() -> Path:
    return mlruns() / ".marked"


def _marks(policies: list[dict[str, Any]]) -> str:
    """The rows as the child reads them, and when their store was last written."""
    rows = json.dumps(json.loads(json.dumps(policies, default=_plain)), sort_keys=True)
    return f"{hashlib.sha256(rows.encode()).hexdigest()} {_marks_file().with_name('mlflow.db').stat().st_mtime_ns}"


def _line(kind: str, **content: Any) -> str:
    """A message to the child, without a secret in whatever it carries: values of params.yaml, tags, an error."""
    return redacted(json.dumps({"kind": kind, **content}, default=_plain)) + "\n"


def now() -> int:
    """Milliseconds since 1970, MLflow's unit: a record says when a number was made, not when it was written."""
    return int(time.time() * 1000)


def _plain(value: Any) -> float | str:
    """Numbers of numpy and torch as floats, anything else as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)
