"""Tracking with MLflow, from the side of a stage: it cannot fail, block or slow down what it tracks.

MLflow runs in a child process (tracking_process.py) that reads JSON lines from a pipe. Its import (2 s) and its network
waits pass beside the stage's own work, and whatever goes wrong there costs one line on stderr. Only the standard library
is imported here, because every stage imports this file.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

# A stage that is done waits this long for its record to be written; a server that does not answer costs no more.
PATIENCE_S = 20.0


class Tracker:
    """One MLflow run: opened when the stage starts, live while it runs, closed with its status."""

    def __init__(self, name: str, fingerprint: str, params: dict[str, Any], inputs: dict[str, str]) -> None:
        """
        Args:
            name: of the stage and its run, e.g. align@dpo; also the name of the MLflow run.
            fingerprint: what the stage's result is made from (fingerprint.py).
            params: the declared numbers, by dotted key.
            inputs: sha256 of each declared dependency, by path.
        """
        self.name = name
        self._opening = {"name": name, "fingerprint": fingerprint, "params": params, "inputs": inputs}
        self._messages: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Tracker":
        environment = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5", **os.environ}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "epsilon_dpo.tracking_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                env=environment,
            )
        except OSError as error:
            print(f"tracking: no MLflow run for {self.name} ({error}); the stage goes on.", file=sys.stderr)
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()
        self._send("open", **self._opening)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._send("artifacts", folder=str(Path("out") / self.name.replace("@", "/")))
        self._send("close", status="FINISHED" if kind is None else "FAILED")
        self._messages.put(None)
        if self._process is None:
            return
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            print(
                f"tracking: the MLflow run of {self.name} was not written within {PATIENCE_S:.0f} s; the stage goes on.",
                file=sys.stderr,
            )

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Numbers of this run, by name; `step` counts optimizer steps."""
        self._send("metrics", metrics=metrics, step=step or 0)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Text by which runs are found and filtered."""
        self._send("tags", tags=tags)

    def log_to_policy(self, policy_sha256: str, metrics: dict[str, float]) -> None:
        """Numbers about a policy, written on the row of the align run that made it."""
        self._send("policy_metrics", policy_sha256=policy_sha256, metrics=metrics)

    def mark_compared(self, policies: list[dict[str, Any]]) -> None:
        """Make the align rows of a report complete, and tag them `in_report`, so that the UI can show just these.

        A row that is missing (the store was deleted, the result came from DVC's cache) is written from the outputs.

        Args:
            policies: per run of the report its `name`, `policy_sha256`, `params` (its entry in params.yaml), `metrics`
                (final ones, by name) and `steps` (the rows of its metrics.jsonl).
        """
        self._send("compared", policies=policies)

    def _send(self, kind: str, **content: Any) -> None:
        self._messages.put(json.dumps({"kind": kind, **content}, default=str))

    def _write(self) -> None:
        """Hand the messages to the child; a full pipe blocks this thread only."""
        if self._process is None or self._process.stdin is None:
            return
        try:
            while (message := self._messages.get()) is not None:
                self._process.stdin.write(message + "\n")
                self._process.stdin.flush()
            self._process.stdin.close()
        except OSError:
            pass  # the child is gone and has said why
