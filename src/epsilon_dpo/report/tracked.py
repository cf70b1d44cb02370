"""The rows of the MLflow table that the report speaks of, in the form that Tracker.mark_compared takes."""

from typing import Any

from epsilon_dpo.fingerprint import numbers, stage_entry
from epsilon_dpo.report.results import Results


def compared_policies(results: Results) -> list[dict[str, Any]]:
    """One entry per run. The numbers of the stage align go to MLflow only: no output depends on them."""
    return [
        {
            "run": run.name,
            "policy_sha256": run.policy_sha256,
            "params": numbers(stage_entry("align", run.name)),
            "metrics": run.final | run.score | run.kl,
            "curve": run.curve,
        }
        for run in results.runs
    ]
