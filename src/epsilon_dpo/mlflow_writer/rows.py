"""The rows of other stages: what is measured of a policy, what a report says, rows that are lost or left over."""

import hashlib
import json
import math
import os
import re
from typing import Any

from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException

from epsilon_dpo.mlflow_writer import pending
from epsilon_dpo.mlflow_writer.answers import ANSWERS_TAG, TABLE, TABLE_TAG, TABLES, table
from epsilon_dpo.mlflow_writer.identity import IN_REPORT, RECIPE, flat, identity, recipe_of, report_mark
from epsilon_dpo.mlflow_writer.metrics import as_metrics, curve, named
from epsilon_dpo.mlflow_writer.models import POLICY, Models, of_model
from epsilon_dpo.mlflow_writer.notes import note
from epsilon_dpo.mlflow_writer.reading import all_runs
from epsilon_dpo.mlflow_writer.server import ABSENT, Failure, failure, in_short, say
from epsilon_dpo.mlflow_writer.store import open_store
from epsilon_dpo.mlflow_writer.view import CURVE
from epsilon_dpo.pipeline.observability.tracker import note_marked, now

RUNS_AT_ONCE = 200  # each brings all its metrics: 7 kB
# MLflow 3.17 refuses to repeat a call with more: it looks up what is there by the hundred, then writes all that the
# first hundred lack (its #20807 fixed that for the metrics of runs). A score has 113.
OF_A_MODEL_AT_ONCE = 100
REBUILD_S = 60.0  # for another process that writes the same row
ERROR, GONE = "error", "the process that wrote this record is gone"
# Metrics of a policy's answers, by stages kl and score and by a report's ranking; other params change them.
OF_ANSWERS = re.compile(rf"kl_.*|(true_)?place_(first|last)|(?!{CURVE}).*/(chosen|sft|run)(_low|_high|_n)?")
REBUILT = "*Written from the outputs, whose own record is not in this store: its times are those of the writing.*\n\n"

Policy = dict[str, Any]


class Rows:
    """The rows of other stages; `policy_metrics`, `compared`, `metric_rows` and `close` are Tracker's messages."""

    def __init__(self) -> None:
        self.store = open_store()
        self.client = self.store.client
        self.models = Models(self.client, self.store.experiment)
        self.mark = report_mark()
        self.takes_files = self.store.takes_artifacts

    def policy_metrics(self, run: str, policy_sha256: str, metrics: dict[str, Any], at: int) -> str | None:
        """Write them on the policy's row and return its id; None: there is no such row yet, and the report makes it."""
        row = self.training(run, policy_sha256)
        if row is None:
            return None
        if not self._is_in_another_report(row):
            self._log(row.info.run_id, as_metrics(metrics, 0, at))
        return str(row.info.run_id)

    def compared(self, policies: list[Policy], at: int | None = None) -> dict[str, Policy]:
        """Mark the rows of `policies` and complete them, by their id.

        What an earlier report said of a policy's answers and this one does not, such as its KL where they are now drawn
        at another temperature, becomes NaN: MLflow deletes no metric, and its page neither lists nor draws this one.

        Args:
            at: when a report said so, in ms since 1970; one that waited must not undo what a later one has said.
        """
        at = at or now()
        # Most often they are the latest trainings, which one search finds.
        newest = {_policy_of(row): row for row in reversed(self._trainings(min(RUNS_AT_ONCE, len(policies) + 1)))}
        rows = []
        for policy in policies:
            run, sha256 = policy["run"], policy["policy_sha256"]
            row = newest.get((run, sha256)) or self.training(run, sha256) or self._rebuilt(policy)
            self._complete(row, policy, at)
            rows.append(row)
        if self._mark(rows, at):
            note_marked(policies)
        return {row.info.run_id: policy for row, policy in zip(rows, policies, strict=True)}

    def _complete(self, row: Run, policy: Policy, at: int) -> None:
        """Write on `row` what this report says of its policy, unless another report says it there, and its model."""
        run_id, run, sha256 = row.info.run_id, policy["run"], policy["policy_sha256"]
        model, is_new = self.models.ensure(run_id, run, sha256, steps=policy["metrics"].get("steps"))
        is_elsewhere = self._is_in_another_report(row)
        metrics = [] if is_elsewhere else _changes(row.data.metrics, policy["metrics"], at)
        self._log(run_id, of_model(metrics, model if is_new else None, None))
        if not is_elsewhere:
            self.renew_recipe(row)
        if self.takes_files and not (is_elsewhere and TABLE_TAG in row.data.tags):
            self._show_answers(row, table(run, sha256))

    def renew_recipe(self, row: Run) -> str | None:
        """The recipe of a training, by which MLflow groups; its tag is written anew where an older version of this
        project spelt it differently, or wrote none."""
        known = row.data.tags.get(RECIPE)
        name = recipe_of(row.data.params) or known
        if name is not None and name != known:
            self.client.set_tag(row.info.run_id, RECIPE, name)
        return name

    def _show_answers(self, row: Run, answers: dict[str, Any] | None) -> None:
        """Log them as a table, and again once another judge or temperature has changed it."""
        digest = hashlib.sha256(json.dumps(answers).encode()).hexdigest()
        if answers is None or row.data.tags.get(ANSWERS_TAG) == digest:
            return
        self._log_file(row.info.run_id, answers, TABLE)
        if self.takes_files:
            self.client.set_tag(row.info.run_id, TABLE_TAG, TABLES)
            self.client.set_tag(row.info.run_id, ANSWERS_TAG, digest)

    def _mark(self, rows: list[Run], at: int) -> bool:
        """Tag `rows`, and no others, as those of this project's report of `at`; False: a later one has tagged its own.

        On a shared server several projects have a report each, also of the same rows: each takes back its own marks.
        """
        by = f"{self.mark}.by.{pending.project()}"
        told = f"{self.mark}.told.{pending.project()}"
        of_experiment = self.client.get_experiment(self.store.experiment).tags
        if at < int(of_experiment.get(told, 0)) <= now():  # not one in the future, of a clock that was ahead
            say("the rows of this report are not marked: a later report has marked its rows.")
            return False
        self.client.set_experiment_tag(self.store.experiment, told, str(at))
        self._take_back_marks(but=rows)
        for row in rows:
            for key, value in ((by, "last report"), (self.mark, "true")):
                if row.data.tags.get(key) != value:
                    self.client.set_tag(row.info.run_id, key, value)
        return True

    def _take_back_marks(self, but: list[Run]) -> None:
        """From all rows but those of this report."""
        others = f"tags.stage = 'align' and tags.`{self.mark}` = 'true'"
        if kept := ", ".join(f"'{row.info.run_id}'" for row in but):
            others += f" and attributes.run_id NOT IN ({kept})"  # each row that is found costs 5 ms
        for run_id, tags in self.search(others).items():
            said_by = {key for key in tags if key.rpartition(".")[0] == f"{self.mark}.by"}
            ours = {key for key in said_by if pending.is_ours(key.rpartition(".")[2])}
            # Said by none: two projects took theirs back at the same time.
            if ours == said_by and (ours or pending.is_ours(tags.get("project"))):
                self.client.set_tag(run_id, self.mark, "false")
            for key in ours:
                self.untag(run_id, key)

    def _is_in_another_report(self, row: Run) -> bool:
        """Whether this is an experiment's copy, and the report of the workspace or of another experiment shows `row`,
        too. This experiment's own values then stand on the rows of its stages alone."""
        marks = {key for key, value in row.data.tags.items() if value == "true" and key.split(".")[0] == IN_REPORT}
        return self.mark != IN_REPORT and bool(marks - {self.mark})

    def metric_rows(self, rows: list[dict[str, Any]]) -> None:
        """There is no run of its own."""

    def close(self, status: str, at: int | None = None) -> None:
        """There is none to end."""

    def close_dead(self) -> None:
        """End the rows of this project whose process is gone: the machine went down, or both were killed."""
        query = f"attributes.status = 'RUNNING' and tags.project = '{pending.project()}'"
        for run_id, tags in self.search(query).items():
            if (execution := tags.get("execution")) is None:
                continue
            with pending.claimed(execution) as free:
                if not free or pending.kept(execution).exists():
                    continue
                # Asked once more, since its process may have ended well after the search.
                run = self.client.get_run(run_id)
                if run.info.status == "RUNNING":
                    self._end_dead(run)
                pending.forget(execution)

    def _end_dead(self, run: Run) -> None:
        """A row of `_rebuilt` is made again by the next report, unless it is complete."""
        run_id = run.info.run_id
        if "rebuilt" not in run.data.tags:
            self.client.set_tag(run_id, ERROR, GONE)
            self.client.set_terminated(run_id, "KILLED")
        elif POLICY in run.data.tags:
            self.client.set_terminated(run_id, "FINISHED")
        else:
            self.discard(run_id, "this record was cut short, and is made again")

    def discard(self, run_id: str, why: str) -> None:
        """Delete a row, or end it and say why: on a server with logins only its maker may delete it."""
        try:
            self.client.delete_run(run_id)
        except MlflowException:
            self.client.set_tag(run_id, ERROR, why)
            self.client.set_terminated(run_id, "KILLED")
            self.untag(run_id, "execution")  # nothing finds it by that any more; a row of a study's summary has none

    def untag(self, run_id: str, key: str) -> None:
        """Take a tag away, where it has not been already, by another process at the same time."""
        try:
            self.client.delete_tag(run_id, key)
        except MlflowException as error:
            if error.error_code != ABSENT:
                raise

    def search(self, query: str) -> dict[str, dict[str, str]]:
        """The ids of all runs that `query` finds, with their tags."""
        found = all_runs(self.client, self.store.experiment, query, RUNS_AT_ONCE)
        return {run.info.run_id: run.data.tags for run in found}

    def create(self, name: str, tags: dict[str, str], at: int) -> str:
        """A new row, begun `at` (milliseconds since 1970), and running until it is ended: its id."""
        run = self.client.create_run(self.store.experiment, run_name=name, tags=tags, start_time=at)
        return str(run.info.run_id)

    def _log_params(self, run_id: str, params: dict[str, Any]) -> None:
        self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in flat(params)])

    def _log(self, run_id: str, metrics: list[Metric]) -> None:
        of_a_model = [metric for metric in metrics if metric.model_id]
        for start in range(0, len(of_a_model), OF_A_MODEL_AT_ONCE):
            self.client.log_batch(run_id, of_a_model[start : start + OF_A_MODEL_AT_ONCE])
        self.client.log_batch(run_id, [metric for metric in metrics if not metric.model_id])

    def _log_file(self, run_id: str, content: dict[str, Any], name: str) -> None:
        """Some servers leave it to their clients to store files, which takes a bucket's library and keys, or a shared
        folder. A client without them sends everything but files."""
        try:
            self.client.log_dict(run_id, content, name)
        except Exception as error:
            if failure(error, os.environ.get("MLFLOW_TRACKING_URI", "")) is not Failure.CALL:
                raise
            self.takes_files = False
            say(f"MLflow gets no files from here, {name} first ({in_short(error)}); the stage goes on.")

    def training(self, run: str, policy_sha256: str) -> Run | None:
        """The latest align run of `run` that made this policy."""
        found = self._trainings(1, f" and tags.run = '{run}' and tags.{POLICY} = '{policy_sha256}'")
        return found[0] if found else None

    def _trainings(self, most: int, besides: str = "") -> list[Run]:
        """The latest `most` align runs, newest first. Each condition is a scan of all tags: 7 ms at 10,000 runs."""
        query = f"tags.stage = 'align'{besides}"
        order = ["attributes.start_time DESC"]
        return list(self.client.search_runs([self.store.experiment], query, max_results=most, order_by=order))

    def _rebuilt(self, policy: Policy) -> Run:
        """An align run from its outputs, marked as such: when and where it was computed is not known.

        It is found as the policy's once it is complete; what an interruption leaves is ended by `close_dead`.
        """
        run, sha256 = policy["run"], policy["policy_sha256"]
        self.close_dead()
        name, execution = f"align@{run}", f"{run}-{sha256}"
        tags = {"rebuilt": "true", "execution": execution, "project": pending.project()}
        tags |= {"mlflow.note.content": REBUILT + note(name, policy["params"])}
        with pending.claimed(execution, REBUILD_S):  # `make ui` may do the same beside a running `make repro`
            if made := self.training(run, sha256):
                return made
            run_id = self.create(name, identity(name, policy["params"]) | tags, now())
            self._log_params(run_id, policy["params"])
            self._log(run_id, [metric for row in policy["curve"] for metric in curve(row, now())])
            evaluation = {name: value for name, value in policy["metrics"].items() if name.startswith("eval_")}
            if evaluation:  # after the last step, the end of its curves, as of a training
                steps = int(policy["metrics"]["steps"])
                self._log(run_id, as_metrics(named(evaluation, steps), steps, now()))
            self.client.set_tag(run_id, POLICY, sha256)
            self.client.set_terminated(run_id, "FINISHED")
        pending.forget(execution)
        return self.client.get_run(run_id)


def _policy_of(training: Run) -> tuple[str | None, str | None]:
    return training.data.tags.get("run"), training.data.tags.get(POLICY)


def _changes(known: dict[str, float], said: dict[str, Any], at: int) -> list[Metric]:
    """Those of `said` that a row with the metrics `known` lacks, and NaN for what is no longer said of answers."""
    final = as_metrics(said, 0, at)
    new = [metric for metric in final if known.get(metric.key) != metric.value]  # equal values would make a history
    of_answers = {name for name, value in known.items() if OF_ANSWERS.fullmatch(name) and not math.isnan(value)}
    gone = of_answers - {metric.key for metric in final}
    return new + as_metrics(dict.fromkeys(sorted(gone), math.nan), 0, at)
