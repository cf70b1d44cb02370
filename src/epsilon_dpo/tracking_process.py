"""The child process that writes one MLflow run, and the only importer of mlflow.

It reads JSON lines from stdin until the pipe closes (see Tracker for what they hold). The first failure prints one line
and ends the tracking, never the stage: from then on it only reads, so that the stage's pipe cannot fill up.
"""

import importlib.metadata
import json
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

EXPERIMENT = "epsilon-dpo"
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "datasets", "dvc", "mlflow")
SMALL_FILES = {".json", ".jsonl", ".html", ".csv", ".png"}
MAX_ARTIFACT_BYTES = 5_000_000


class Record:
    """The MLflow run of one stage execution."""

    def __init__(self, opening: dict[str, Any]) -> None:
        from mlflow import MlflowClient

        root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
        store = root / "mlruns"
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            store.mkdir(exist_ok=True)
            uri = f"sqlite:///{store / 'mlflow.db'}"
        # The first use of an empty sqlite store by several processes at once destroys it.
        with FileLock(store / ".lock", timeout=60) if uri.startswith("sqlite:") and store.is_dir() else _nothing():
            self.client = MlflowClient(uri)
            self.experiment = self._experiment(f"{store / 'artifacts'}" if uri.startswith("sqlite:") else None)
        self.name: str = opening["name"]
        stage, _, key = self.name.partition("@")
        tags = {"stage": stage, "fingerprint": opening["fingerprint"], **_environment(root)}
        if key:
            tags |= {"run": key, "method": str(opening["params"].get(f"runs.{key}", {}).get("method", ""))}
        self.run_id = self._new_run(self.name, tags, opening["params"])
        self._log_inputs(opening["inputs"])

    def _experiment(self, artifacts: str | None) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        return found.experiment_id if found else self.client.create_experiment(EXPERIMENT, artifact_location=artifacts)

    def _new_run(self, name: str, tags: dict[str, str], params: dict[str, Any]) -> str:
        from mlflow.entities import Param

        run_id: str = self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id
        entries = [Param(key, str(value)) for key, value in _flat(params)]
        for start in range(0, len(entries), 100):  # the server's limit per call
            self.client.log_batch(run_id, params=entries[start : start + 100])
        return run_id

    def _log_inputs(self, inputs: dict[str, str]) -> None:
        """The data a stage read, with the digest of its content (36 characters is what the store holds)."""
        from mlflow.entities import Dataset, DatasetInput

        datasets = [
            DatasetInput(Dataset(name=path, digest=sha256[:36], source_type="local", source=path))
            for path, sha256 in inputs.items()
            if path.startswith("out/")
        ]
        if datasets:
            self.client.log_inputs(self.run_id, datasets)
        for path, sha256 in inputs.items():
            self.client.set_tag(self.run_id, f"sha256.{path}", sha256)

    def metrics(self, metrics: dict[str, Any], step: int, run_id: str | None = None) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [
            Metric(_metric_name(k), float(v), now, step) for k, v in metrics.items() if isinstance(v, int | float)
        ]
        for start in range(0, len(entries), 1000):
            self.client.log_batch(run_id or self.run_id, metrics=entries[start : start + 1000])

    def tags(self, tags: dict[str, str], run_id: str | None = None) -> None:
        for key, value in tags.items():
            self.client.set_tag(run_id or self.run_id, key, value)

    def policy_metrics(self, policy_sha256: str, metrics: dict[str, Any]) -> None:
        row = self._align_row(policy_sha256)
        if row:
            self.metrics(metrics, 0, row)

    def _align_row(self, policy_sha256: str) -> str | None:
        """The latest align run that made this policy."""
        found = self.client.search_runs(
            [self.experiment],
            f"tags.stage = 'align' and tags.policy_sha256 = '{policy_sha256}'",
            max_results=1,
            order_by=["attributes.start_time DESC"],
        )
        return found[0].info.run_id if found else None

    def compared(self, policies: list[dict[str, Any]]) -> None:
        rows = set()
        for policy in policies:
            row = self._align_row(policy["policy_sha256"]) or self._rebuilt_row(policy)
            self.metrics(policy["metrics"], 0, row)
            rows.add(row)
        for run in self.client.search_runs([self.experiment], "tags.stage = 'align'"):
            self.tags({"in_report": str(run.info.run_id in rows).lower()}, run.info.run_id)

    def _rebuilt_row(self, policy: dict[str, Any]) -> str:
        """An align run from its outputs, marked as such."""
        key = policy["name"]
        tags = {"stage": "align", "run": key, "method": str(policy["params"].get("method", "")), "rebuilt": "true"}
        tags["policy_sha256"] = policy["policy_sha256"]
        run_id = self._new_run(f"align@{key}", tags, {f"runs.{key}": policy["params"]})
        for row in policy["steps"]:
            self.metrics({name: value for name, value in row.items() if name != "step"}, int(row["step"]), run_id)
        self.client.set_terminated(run_id, "FINISHED")
        return run_id

    def artifacts(self, folder: str) -> None:
        """The small files of the stage's output; weights and data stay with DVC."""
        for file in sorted(Path(folder).glob("*")) + sorted(Path(folder).glob("figures/*")):
            if file.suffix in SMALL_FILES and file.stat().st_size <= MAX_ARTIFACT_BYTES:
                self.client.log_artifact(self.run_id, str(file), None if file.parent == Path(folder) else "figures")

    def close(self, status: str) -> None:
        self.client.set_terminated(self.run_id, status)


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def _flat(params: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested numbers by dotted key."""
    for key, value in params.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _metric_name(name: str) -> str:
    """`name` without the characters that MLflow refuses."""
    return re.sub(r"[^\w/ .:-]", "_", name)


def _environment(root: Path) -> dict[str, str]:
    """Where the run was computed: commit, machine, versions. It is recorded here and in nothing that DVC hashes."""
    tags = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
    }
    for library in LIBRARIES:
        tags[library] = importlib.metadata.version(library)
    commit = _output(["git", "-C", str(root), "rev-parse", "HEAD"])
    if commit:
        changed = bool(_output(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"]))
        tags |= {"mlflow.source.git.commit": commit, "git.uncommitted_changes": str(changed).lower()}
    if shutil.which("nvidia-smi"):
        tags["gpu"] = _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).replace("\n", ", ")
    return tags


def _output(command: list[str]) -> str:
    """What `command` prints, or nothing where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def serve(lines: Iterator[str]) -> None:
    """Write what `lines` say; if they end without a `close`, the stage was killed."""
    record: Record | None = None
    name = "this stage"
    try:
        for line in lines:
            message = json.loads(line)
            kind = message.pop("kind")
            if kind == "open":
                name = message["name"]
                record = Record(message)
            elif record is not None:
                getattr(record, kind)(**message)
                if kind == "close":
                    return
        if record is not None:
            record.close("KILLED")
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        print(f"tracking: no MLflow record of {name} from here on ({type(error).__name__}: {reason}); the stage goes on.",
              file=sys.stderr, flush=True)  # fmt: skip
        for _ in lines:
            pass


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the stage, and the stage ends this
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    logging.disable(logging.WARNING)
    serve(sys.stdin)
