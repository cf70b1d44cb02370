"""The rows of the MLflow table that the report speaks of, in the form that Tracker.mark_compared takes.

`python -m epsilon_dpo.report.page.tracked` marks them again: DVC restores a report that it has seen before without
running the stage, and the marks would then be those of another report. Before that it writes what waits for MLflow.
"""

import signal
import sys
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.observability.tracker import Tracker, are_marked, deliver_waiting
from epsilon_dpo.pipeline.stage.fingerprint import declared_params, stage_entry
from epsilon_dpo.pipeline.stage.params import load, read_yaml
from epsilon_dpo.pipeline.stage.runs import readable
from epsilon_dpo.report.page.params import ReportView
from epsilon_dpo.report.page.results import Results, read_results

LOCK_FILE = Path("dvc.lock")


def compared_policies(results: Results) -> list[dict[str, Any]]:
    """One entry per run. The values of the stage align go to MLflow only: no output depends on them."""
    return [
        {
            "run": run.name,
            "policy_sha256": run.policy_sha256,
            "params": declared_params(stage_entry("align", run.name)),
            "metrics": run.final | run.score | readable(run.kl, results.sampled_under) | _places(results, run.name),
            "curve": run.curve,
        }
        for run in results.runs
    ]


def _places(results: Results, policy: str) -> dict[str, int]:
    """The places that the data leave open, among all policies of the report: by the truth they begin with `true_`."""
    return {
        f"{field.removesuffix('win')}{name}": row[name]
        for field, rows in results.ranking.items()
        for row in rows
        if row["policy"] == policy
        for name in ("place_first", "place_last")
    }


def mark_again() -> None:
    """Mark the rows of what is in out/, without a run of its own; nothing if out/ is not yet what params.yaml asks for.

    Raises:
        UserError: params.yaml or a result cannot be read, or the results do not belong together.
    """
    if not LOCK_FILE.exists():
        return
    try:
        results = read_results(Path("out"), load(ReportView).runs)
    except FileNotFoundError:
        return
    policies = compared_policies(results)
    if are_marked(policies):
        return
    locked = read_yaml(LOCK_FILE).get("stages")
    # A lost row is written from params.yaml: its config must be the one that the policy was trained with.
    if all(_locked_params(locked, row["run"]) == row["params"] for row in policies):
        with Tracker("report", None, {}, {}) as tracker:
            tracker.mark_compared(policies)


def _locked_params(locked: Any, run: str) -> Any:
    """The values of params.yaml that the policy of `run` was trained with, as dvc.lock's `locked` has them; None: it
    has none, or a part of the file alone was there, as DVC was writing it."""
    try:
        return locked[f"align@{run}"]["params"]["params.yaml"]
    except (KeyError, TypeError):
        return None


if __name__ == "__main__":
    try:
        deliver_waiting()
        mark_again()
    except UserError as error:
        print(f"tracking: the rows of the report are not marked: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
