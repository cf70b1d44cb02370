"""One MLflow run, written while its stage runs."""

import json
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from epsilon_dpo.mlflow_writer import pending
from epsilon_dpo.mlflow_writer.identity import identity
from epsilon_dpo.mlflow_writer.metrics import as_metrics, named
from epsilon_dpo.mlflow_writer.models import DATA, POLICY, of_model
from epsilon_dpo.mlflow_writer.notes import command, note
from epsilon_dpo.mlflow_writer.rows import ERROR, GONE, Policy, Rows
from epsilon_dpo.mlflow_writer.server import say

DIGEST_CHARACTERS = 32  # the store holds 36; all 64 are in inputs.json
SMALL_FILES = {".json", ".html", ".csv", ".png"}  # no .jsonl: rows are data
PICTURES = ("figures", "images")  # folders of stage report, of stage figures
MAX_ARTIFACT_BYTES = 2_000_000
MTIME_MS = 2000  # file systems round


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
            environment: tags of the machine and the code, as of environment.environment; None: not known.
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
        tags |= environment or {}
        self._note = note(name, params)
        tags |= {"mlflow.source.type": "LOCAL", "mlflow.note.content": self._note}
        tags["mlflow.source.name"] = command(name)
        if execution:
            tags["execution"] = execution
        known = next(iter(self._executions()), None) if resumed else None
        self.run_id = known or self.create(name, tags, at)
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

    def compared(self, policies: list[Policy], at: int | None = None) -> dict[str, Policy]:
        """As of Rows; this run's description links to the rows."""
        rows = super().compared(policies, at)
        link = f"#/experiments/{self.store.experiment}/runs/"
        links = ", ".join(f"[align@{policy['run']}]({link}{row})" for row, policy in rows.items())
        self.client.set_tag(self.run_id, "mlflow.note.content", f"{self._note}\n\nIt compares {links}.")
        return rows

    def metric_rows(self, rows: list[dict[str, Any]]) -> None:
        """Messages `metrics`: {"metrics": …, "step": …, "at": …} and, of a training, `resources`."""
        said: list[Metric] = []
        used: list[Metric] = []  # by the computation, which says nothing of the model
        for row in rows:
            said += as_metrics(named(row["metrics"], row["step"]), row["step"], row["at"])
            used += as_metrics(row.get("resources", {}), row["step"], row["at"])
        self._log(self.run_id, of_model(said, self._model, self._data) + used)

    def tags(self, tags: dict[str, str]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])
        if self._stage == "align":
            self.models.made(self.run_id, self._run, tags)
        elif self._run and POLICY in tags:
            self._model = self.models.read(self.run_id, self._run, tags[POLICY])

    def artifacts(self, folder: str, at: int, inside: str | None = None) -> None:
        """The small files of the stage's output; weights and rows of data stay with DVC.

        Args:
            at: when the stage had written them, in ms since 1970; newer ones are another execution's.
            inside: the folder among the run's artifacts that they go to; None: no folder.
        """
        if not self.takes_files:
            return
        top = Path(folder)
        inner = [file for name in PICTURES for file in sorted(top.glob(f"{name}/*"))]
        for file in sorted(top.glob("*")) + inner:
            if file.suffix not in SMALL_FILES or not file.is_file():  # a link may lead to what `dvc gc` has removed
                continue
            if file.stat().st_size > MAX_ARTIFACT_BYTES:
                continue
            if file.stat().st_mtime * 1000 > at + MTIME_MS:
                say(f"{folder} has changed since this record of it was made, so MLflow gets no more of its files.")
                return
            folders = [inside] if file.parent == top else [inside, file.parent.name]
            self.client.log_artifact(self.run_id, str(file), "/".join(filter(None, folders)) or None)

    def close(self, status: str, at: int | None = None) -> None:
        """End the run, at `at` (ms since 1970).

        A server that stopped while it created the run may have created it twice; the other one is deleted.
        """
        self.client.set_terminated(self.run_id, status, at)
        # Said by another process, which did not see this one.
        if self.client.get_run(self.run_id).data.tags.get(ERROR) == GONE:
            self.untag(self.run_id, ERROR)
        if self.execution and not self.store.is_local:
            for other in self._executions().keys() - {self.run_id}:
                self.discard(other, "the server made this row twice")

    def _executions(self) -> dict[str, dict[str, str]]:
        return self.search(f"tags.execution = '{self.execution}'")

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
            self._log_file(self.run_id, inputs, "inputs.json")
