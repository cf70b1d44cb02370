"""One MLflow run, written as a stage goes."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from epsilon_dpo.mlflow_writer.environment import environment
from epsilon_dpo.mlflow_writer.models import DATA, POLICY, Models, of_model
from epsilon_dpo.mlflow_writer.store import open_store, root
from epsilon_dpo.pipeline.observability.tracker import note_marked, now

METRICS_AT_ONCE, PARAMS_AT_ONCE = 1000, 100  # the server's limits per call
DIGEST_CHARACTERS = 32  # the store holds 36; all 64 are in inputs.json
SMALL_FILES = {".json", ".jsonl", ".html", ".csv", ".png"}
MAX_ARTIFACT_BYTES = 2_000_000

Policy = dict[str, Any]


class Rows:
    """The rows of other stages; the methods are Tracker's messages."""

    def __init__(self) -> None:
        self.store = open_store()
        self.client = self.store.client
        self.models = Models(self.client, self.store.experiment)

    def policy_metrics(self, run: str, policy_sha256: str, metrics: dict[str, Any]) -> None:
        """On the row of the policy, if the store has it; else the report makes the row."""
        row = self._align_row(run, policy_sha256)
        if row:
            self._log(row, _metrics(metrics, 0, now()))

    def compared(self, policies: list[Policy]) -> None:
        rows = {
            self._align_row(policy["run"], policy["policy_sha256"]) or self._rebuilt(policy): policy
            for policy in policies
        }
        for row, policy in rows.items():
            model, is_new = self.models.ensure(row, policy["run"], policy["policy_sha256"])
            known = self.client.get_run(row).data.metrics  # marking twice must not make a history of equal values
            final = _metrics(policy["metrics"], 0, now())
            unknown = [metric for metric in final if known.get(metric.key) != metric.value]
            self._log(row, of_model(unknown, model if is_new else None, None))
        for found in self.client.search_runs([self.store.experiment], "tags.stage = 'align'"):
            in_report = str(found.info.run_id in rows).lower()
            if found.data.tags.get("in_report") != in_report:
                self.client.set_tag(found.info.run_id, "in_report", in_report)
        note_marked(policies)

    def close(self, status: str) -> None:
        """There is no run of its own to end."""

    def _new_run(self, name: str, tags: dict[str, str], params: dict[str, Any], at: int) -> str:
        run = self.client.create_run(self.store.experiment, run_name=name, tags=tags, start_time=at)
        entries = [Param(key, str(value)) for key, value in flat(params)]
        for start in range(0, len(entries), PARAMS_AT_ONCE):
            self.client.log_batch(run.info.run_id, params=entries[start : start + PARAMS_AT_ONCE])
        return str(run.info.run_id)

    def _log(self, run_id: str, metrics: Iterable[Metric]) -> None:
        entries = list(metrics)
        for start in range(0, len(entries), METRICS_AT_ONCE):
            self.client.log_batch(run_id, metrics=entries[start : start + METRICS_AT_ONCE])

    def _align_row(self, run: str, policy_sha256: str) -> str | None:
        """The latest align run of `run` that made this policy."""
        found = self.client.search_runs(
            [self.store.experiment],
            f"tags.stage = 'align' and tags.run = '{run}' and tags.policy_sha256 = '{policy_sha256}'",
            max_results=1,
            order_by=["attributes.start_time DESC"],
        )
        return str(found[0].info.run_id) if found else None

    def _rebuilt(self, policy: Policy) -> str:
        """An align run from its outputs, marked as such: when and where it was computed is not known."""
        name = f"align@{policy['run']}"
        tags = {"policy_sha256": policy["policy_sha256"], "rebuilt": "true"}
        run_id = self._new_run(name, _identity(name, policy["params"]) | tags, policy["params"], now())
        self._log(run_id, [metric for row in policy["curve"] for metric in _metrics(row, int(row["step"]), now())])
        evaluation = {name: value for name, value in policy["metrics"].items() if name.startswith("eval_")}
        if evaluation:  # after the last step; `compared` then finds these values known
            self._log(run_id, _metrics(evaluation, int(policy["metrics"]["steps"]), now()))
        self.client.set_terminated(run_id, "FINISHED")
        return run_id


class Record(Rows):
    """The MLflow run of one stage execution; arguments and methods are Tracker's messages."""

    def __init__(self, name: str, fingerprint: str, params: dict[str, Any], inputs: dict[str, str], at: int) -> None:
        super().__init__()
        tags = _identity(name, params) | {"fingerprint": fingerprint} | environment(root())
        tags["mlflow.source.name"] = f"python -m stages.{name.replace('@', ' ')}"
        self.run_id = self._new_run(name, tags, params, at)
        self._log_inputs(inputs)
        self._stage, self._run = tags["stage"], tags.get("run", "")
        self._model: str | None = None  # of the policy that this stage reads, once it says which
        self._data = next(((path, inputs[path][:DIGEST_CHARACTERS]) for path in DATA if path in inputs), None)

    def metrics(self, metrics: dict[str, Any], step: int, at: int) -> None:
        self._log(self.run_id, of_model(_metrics(metrics, step, at), self._model, self._data))

    def tags(self, tags: dict[str, str]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])
        if self._stage == "align":
            self.models.made(self.run_id, self._run, tags)
        elif self._run and POLICY in tags:
            self._model = self.models.read(self.run_id, self._run, tags[POLICY])

    def artifacts(self, folder: str) -> None:
        """The small files of the stage's output; weights and data stay with DVC."""
        if not self.store.takes_artifacts:
            return
        top = Path(folder)
        for file in sorted(top.glob("*")) + sorted(top.glob("figures/*")):
            if file.suffix in SMALL_FILES and file.stat().st_size <= MAX_ARTIFACT_BYTES:
                self.client.log_artifact(self.run_id, str(file), None if file.parent == top else "figures")

    def close(self, status: str) -> None:
        self.client.set_terminated(self.run_id, status)

    def _log_inputs(self, inputs: dict[str, str]) -> None:
        """The data that a stage read, as datasets with the digest of their content; code and data in inputs.json."""
        datasets = [
            DatasetInput(
                Dataset(
                    name=path, digest=sha256[:DIGEST_CHARACTERS], source_type="local", source=json.dumps({"uri": path})
                ),
                [InputTag(MLFLOW_DATASET_CONTEXT, "input")],
            )
            for path, sha256 in inputs.items()
            if path.startswith("out/")
        ]
        if datasets:
            self.client.log_inputs(self.run_id, datasets)
        if self.store.takes_artifacts:
            self.client.log_dict(self.run_id, inputs, "inputs.json")


def _identity(name: str, params: dict[str, Any]) -> dict[str, str]:
    """Tags by which a run is found: its stage and, where it has one, its run and that run's method."""
    stage, _, run = name.partition("@")
    method = params.get(f"runs.{run}", {}).get("method")
    return {"stage": stage} | ({"run": run} if run else {}) | ({"method": str(method)} if method else {})


def flat(params: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by dotted key; a run's own are `run.beta` whatever its name, so that they share a column."""
    for key, value in params.items():
        key = re.sub(r"^runs\.\w+$", "run", key)
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _metrics(metrics: dict[str, Any], step: int, at: int) -> list[Metric]:
    """The numeric values of `metrics`, names without the characters that MLflow refuses; `step` is no metric."""
    return [
        Metric(re.sub(r"[^\w/ .:-]", "_", name), float(value), at, step)
        for name, value in metrics.items()
        if isinstance(value, int | float) and name != "step"
    ]
