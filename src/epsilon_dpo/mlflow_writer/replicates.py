"""What the page shows of a study (view.py): the rows of its replicates, marked, and a row per recipe over them."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow.entities import Run, RunStatus, RunTag

from epsilon_dpo.mlflow_writer import pending
from epsilon_dpo.mlflow_writer.identity import RECIPE, recipe
from epsilon_dpo.mlflow_writer.metrics import as_metrics
from epsilon_dpo.mlflow_writer.reading import all_runs
from epsilon_dpo.mlflow_writer.rows import RUNS_AT_ONCE, Rows
from epsilon_dpo.mlflow_writer.server import UI, server_address
from epsilon_dpo.mlflow_writer.store import set_view
from epsilon_dpo.mlflow_writer.view import STUDY, STUDY_SEED, SUMMARY, seeds_tag, summary_tag, view_of
from epsilon_dpo.pipeline.observability.tracker import now

NOTE = """Means over the replicates of level {level} with seeds {seeds}, made by `epsilon-dpo study` from study/results.
`_low` and `_high` are the ends of Student's {confidence} interval over replicates; fewer than three have none."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b8a800", "#4d4d4d")  # one per method
MOST_ROWS = 1000  # of a level's summary
BY = f"{STUDY}.by"  # the project that marked a row


def mark_replicate(level: str, seed: int, policies: Mapping[str, str]) -> int:
    """Tag the rows of trainings with their study's level and seed, and take the tags from other rows that had these;
    the page's menu gets a view of the level.

    Args:
        policies: sha256 of each policy, by run.

    Returns:
        how many of them the store has; those of a clone with a store of its own are not here.
    """
    rows = Rows()
    for run_id, tags in rows.search(f"tags.{STUDY} = '{level}' and tags.{STUDY_SEED} = '{seed}'").items():
        if pending.is_ours(tags.get(BY)):  # on a shared server another project has a study of its own
            rows.untag(run_id, STUDY)
    found = [row for run, sha256 in policies.items() if (row := rows.training(run, sha256))]
    for row in found:
        rows.client.set_tag(row.info.run_id, STUDY_SEED, str(seed))
        rows.client.set_tag(row.info.run_id, BY, pending.project())
        rows.client.set_tag(row.info.run_id, STUDY, level)
    if found:
        # Of all seeds: those that an older version of this project marked have its spelling.
        of_level = all_runs(rows.client, rows.store.experiment, f"tags.{STUDY} = '{level}'", RUNS_AT_ONCE)
        recipes = {name for row in of_level if (name := rows.renew_recipe(row))}
        set_view(rows.client, rows.store.experiment, *seeds_tag(level, recipes))
    return len(found)


def write_summary(level: str, recipes: Iterable[Mapping[str, Any]], confidence: str) -> str:
    """Write a row per recipe and beta of a level, in place of those that this project wrote before, and their view.

    Args:
        recipes: of each its `params`, an entry as in params.yaml; `seeds`, in text; and `metrics`.
        confidence: of the intervals among the metrics, in text.

    Returns:
        the address of the view.
    """
    rows = Rows()
    known = _summary_rows(rows, level)
    colours: dict[str, str] = {}
    for entry in recipes:
        name, method = recipe(entry["params"]), entry["params"]["method"]
        metrics = {f"{STUDY}/{key}": float(value) for key, value in entry["metrics"].items()}
        tags = {SUMMARY: level, "method": method, RECIPE: name, "seeds": entry["seeds"], "project": pending.project()}
        tags["mlflow.runColor"] = colours.setdefault(method, COLOURS[len(colours) % len(COLOURS)])
        tags["mlflow.note.content"] = NOTE.format(level=level, seeds=entry["seeds"], confidence=confidence)
        # Not one with an interval that these replicates no longer have: no call takes a metric away.
        same = (row for row in known if row.data.tags.get(RECIPE) == name)
        fitting = (row for row in same if row.data.metrics.keys() <= metrics.keys())
        if row := next(fitting, None):
            known.remove(row)
        else:
            row = rows.client.get_run(rows.create(name, tags, now()))
        _complete(rows, row, tags, metrics)
    for row in known:  # also of recipes that the level has no longer
        rows.untag(row.info.run_id, SUMMARY)
        rows.discard(row.info.run_id, "a later summary has no such row")
    set_view(rows.client, rows.store.experiment, *summary_tag(level))
    server = server_address(os.environ.get("MLFLOW_TRACKING_URI", "")) or UI
    return f"{server}{view_of(rows.store.experiment, level)}"


def _summary_rows(rows: Rows, level: str) -> list[Run]:
    """Those of this project; on a shared server another project has a summary of its own."""
    found = rows.client.search_runs([rows.store.experiment], f"tags.{SUMMARY} = '{level}'", max_results=MOST_ROWS)
    return [row for row in found if pending.is_ours(row.data.tags.get("project"))]


def _complete(rows: Rows, row: Run, tags: Mapping[str, str], metrics: dict[str, float]) -> None:
    """Write what differs alone: a repeat must make no history of equal values."""
    changed = [each for each in as_metrics(metrics, 0, now()) if row.data.metrics.get(each.key) != each.value]
    told = [RunTag(key, value) for key, value in tags.items() if row.data.tags.get(key) != value]
    if changed or told:
        rows.client.log_batch(row.info.run_id, changed, tags=told)
    if row.info.status != RunStatus.to_string(RunStatus.FINISHED):
        rows.client.set_terminated(row.info.run_id)
