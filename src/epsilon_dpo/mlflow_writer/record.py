"""One MLflow run, written as a stage goes."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from epsilon_dpo.mlflow_writer import pending
from epsilon_dpo.mlflow_writer.answers import TABLE, TABLE_TAG, table, table_tag
from epsilon_dpo.mlflow_writer.environment import environment as surroundings
from epsilon_dpo.mlflow_writer.identity import flat, identity, report_mark
from epsilon_dpo.mlflow_writer.metrics import as_metrics, curve, named
from epsilon_dpo.mlflow_writer.models import DATA, POLICY, Models, of_model
from epsilon_dpo.mlflow_writer.notes import note
from epsilon_dpo.mlflow_writer.server import say
from epsilon_dpo.mlflow_writer.store import open_store
from epsilon_dpo.pipeline.observability.tracker import note_marked, now

METRICS_AT_ONCE, PARAMS_AT_ONCE = 1000, 100  # the server's limits per call
RUNS_AT_ONCE = 200  # each brings all its metrics: 7 kB
DIGEST_CHARACTERS = 32  # the store holds 36; all 64 are in inputs.json
SMALL_FILES = {".json", ".jsonl", ".html", ".csv", ".png"}
MAX_ARTIFACT_BYTES = 2_000_000
MTIME_MS = 2000  # file systems round
REBUILT = "*Written from the outputs, whose own record is not in this store: its times are those of the writing.*\n\n"

Policy = dict[str, Any]


class Rows:
    """The rows of other stages; the methods are Tracker's messages."""

    def __init__(self) -> None:
        self.store = open_store()
        self.client = self.store.client
        self.models = Models(self.client, self.store.experiment)
        self.mark = report_mark()
        self.takes_files = self.store.takes_artifacts

    def policy_metrics(self, run: str, policy_sha256: str, metrics: dict[str, Any], at: int) -> str | None:
        """On the row of the policy, if the store has it; else the report makes the row. Returns its id."""
        row = self._align_row(run, policy_sha256)
        if row:
            self._log(row, as_metrics(metrics, 0, at))
        return row

    def compared(self, policies: list[Policy]) -> dict[str, Policy]:
        """Mark the rows of `policies` and complete them, by their id."""
        mark = self.mark
        rows = {
            self._align_row(policy["run"], policy["policy_sha256"]) or self._rebuilt(policy): policy
            for policy in policies
        }
        for row, policy in rows.items():
            model, is_new = self.models.ensure(row, policy["run"], policy["policy_sha256"])
            data = self.client.get_run(row).data
            known = data.metrics  # marking twice must not make a history of equal values
            final = as_metrics(policy["metrics"], 0, now())
            unknown = [metric for metric in final if known.get(metric.key) != metric.value]
            self._log(row, of_model(unknown, model if is_new else None, None))
            if TABLE_TAG not in data.tags and self.takes_files and (answers := table(policy["run"])):
                self.client.log_dict(row, answers, TABLE)
                self.client.set_tag(row, TABLE_TAG, table_tag())
        marked = set(self._search(f"tags.stage = 'align' and tags.`{mark}` = 'true'"))
        for run_id in marked - rows.keys():
            self.client.set_tag(run_id, mark, "false")
        for run_id in rows.keys() - marked:
            self.client.set_tag(run_id, mark, "true")
        note_marked(policies)
        return rows

    def metric_rows(self, rows: list[dict[str, Any]]) -> None:
        """There is no run of its own."""

    def close(self, status: str, at: int | None = None) -> None:
        """There is none to end."""

    def close_dead(self) -> None:
        """End the rows of this project whose process is gone: the machine went down, or both were killed."""
        for run_id, execution in self._search(
            f"attributes.status = 'RUNNING' and tags.project = '{pending.project()}'", "execution"
        ).items():
            if execution is None:
                continue
            with pending.claimed(execution) as free:
                if not free or pending.kept(execution).exists():
                    continue
                # Asked once more, since its process may have ended well after the search.
                if self.client.get_run(run_id).info.status == "RUNNING":
                    self.client.set_tag(run_id, "error", "the process that wrote this record is gone")
                    self.client.set_terminated(run_id, "KILLED")
                    pending.forget(execution)

    def _search(self, query: str, tag: str = "") -> dict[str, str | None]:
        """All runs that `query` finds, with the value of `tag`."""
        found: dict[str, str | None] = {}
        token = None
        while True:
            page = self.client.search_runs([self.store.experiment], query, max_results=RUNS_AT_ONCE, page_token=token)
            found |= {run.info.run_id: run.data.tags.get(tag) for run in page}
            token = page.token
            if not token:
                return found

    def _create(self, name: str, tags: dict[str, str], at: int) -> str:
        run = self.client.create_run(self.store.experiment, run_name=name, tags=tags, start_time=at)
        return str(run.info.run_id)

    def _log_params(self, run_id: str, params: dict[str, Any]) -> None:
        entries = [Param(key, str(value)) for key, value in flat(params)]
        for start in range(0, len(entries), PARAMS_AT_ONCE):
            self.client.log_batch(run_id, params=entries[start : start + PARAMS_AT_ONCE])

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
        tags |= {"mlflow.note.content": REBUILT + note(name, policy["params"])}
        run_id = self._create(name, identity(name, policy["params"]) | tags, now())
        self._log_params(run_id, policy["params"])
        self._log(run_id, [metric for row in policy["curve"] for metric in curve(row, now())])
        evaluation = {name: value for name, value in policy["metrics"].items() if name.startswith("eval_")}
        if evaluation:  # after the last step; `compared` then finds these values known
            self._log(run_id, as_metrics(evaluation, int(policy["metrics"]["steps"]), now()))
        self.client.set_terminated(run_id, "FINISHED")
        return run_id


class Record(Rows):
    """The MLflow run of one stage execution; arguments and methods are Tracker's messages."""

    def __init__(
        self,
        name: str,
        fingerprint: str,
        params: dict[str, Any],
        inputs: dict[str, str],
        at: int,
        execution: str | None = None,
        environment: dict[str, str] | None = None,
        resumed: bool = False,
        folder: str | None = None,
        mark: str | None = None,
    ) -> None:
        """
        Args:
            name, fingerprint, params, inputs, at, execution: of Tracker's message.
            environment: tags of the machine and the code, where they are known from when the stage began.
            resumed: the run may be there already, with all or some of what is written here.
            folder: the stage's working folder. A record that waited may be written from another one, whose out/ holds
                the files of another result.
            mark: report_mark of the stage, which may have been another experiment's.
        """
        super().__init__()
        self.mark = mark or self.mark
        self.takes_files &= folder is None or folder == str(Path.cwd())
        self.execution = execution
        tags = identity(name, params) | {"fingerprint": fingerprint, "project": pending.project()}
        tags |= surroundings(Path.cwd()) if environment is None else environment
        self._note = note(name, params)
        tags |= {"mlflow.source.type": "LOCAL", "mlflow.note.content": self._note}
        tags["mlflow.source.name"] = f"python -m stages.{name.replace('@', ' ')}"
        if execution:
            tags["execution"] = execution
        known = next(iter(self._executions()), None) if resumed else None
        self.run_id = known or self._create(name, tags, at)
        self._log_params(self.run_id, params)
        self._log_inputs(inputs)
        self._stage, self._run = tags["stage"], tags.get("run", "")
        self._model: str | None = None  # of the policy that this stage reads, once it says which
        self._data = next(((path, inputs[path][:DIGEST_CHARACTERS]) for path in DATA if path in inputs), None)

    def policy_metrics(self, run: str, policy_sha256: str, metrics: dict[str, Any], at: int) -> str | None:
        """As of Rows; this run names the one that made its policy, which may be of another day if DVC restored it."""
        row = super().policy_metrics(run, policy_sha256, metrics, at)
        if row:
            self.client.set_tag(self.run_id, "policy_run", row)
        return row

    def compared(self, policies: list[Policy]) -> dict[str, Policy]:
        """As of Rows; this run's description links to the rows."""
        rows = super().compared(policies)
        link = f"#/experiments/{self.store.experiment}/runs/"
        links = ", ".join(f"[align@{policy['run']}]({link}{row})" for row, policy in rows.items())
        self.client.set_tag(self.run_id, "mlflow.note.content", f"{self._note}\n\nIt compares {links}.")
        return rows

    def metric_rows(self, rows: list[dict[str, Any]]) -> None:
        """Messages `metrics`: {"metrics": …, "step": …, "at": …} and, of a training, `resources`."""
        metrics = [
            metric
            for row in rows
            for metrics in (named(row["metrics"], row["step"]), row.get("resources", {}))
            for metric in as_metrics(metrics, row["step"], row["at"])
        ]
        self._log(self.run_id, of_model(metrics, self._model, self._data))

    def tags(self, tags: dict[str, str]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])
        if self._stage == "align":
            self.models.made(self.run_id, self._run, tags)
        elif self._run and POLICY in tags:
            self._model = self.models.read(self.run_id, self._run, tags[POLICY])

    def artifacts(self, folder: str, at: int) -> None:
        """The small files of the stage's output; weights and data stay with DVC.

        Args:
            at: when the stage had written them, in ms since 1970; newer ones are another execution's.
        """
        if not self.takes_files:
            return
        top = Path(folder)
        for file in sorted(top.glob("*")) + sorted(top.glob("figures/*")):
            if file.suffix not in SMALL_FILES or file.stat().st_size > MAX_ARTIFACT_BYTES:
                continue
            if file.stat().st_mtime * 1000 > at + MTIME_MS:
                say(f"{folder} has changed since this record of it was made, so MLflow gets no more of its files.")
                return
            self.client.log_artifact(self.run_id, str(file), None if file.parent == top else "figures")

    def close(self, status: str, at: int | None = None) -> None:
        """End the run, at `at` (ms since 1970).

        A server that stopped in the middle of creating it may have done so twice; the other one is deleted.
        """
        self.client.set_terminated(self.run_id, status, at)
        if self.execution and not self.store.is_local:
            for other in self._executions().keys() - {self.run_id}:
                self.client.delete_run(other)

    def _executions(self) -> dict[str, str | None]:
        return self._search(f"tags.execution = '{self.execution}'")

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
