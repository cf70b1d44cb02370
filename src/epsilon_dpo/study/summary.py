"""A level over its replicates: for each recipe and beta mean and interval, and the rows of MLflow that show them."""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from epsilon_dpo.analysis.intervals.rates import mean
from epsilon_dpo.mlflow_writer.process import be_quiet
from epsilon_dpo.mlflow_writer.server import UI, in_short, reach_server, say, wait_briefly
from epsilon_dpo.pipeline.stage.files import Row
from epsilon_dpo.pipeline.stage.runs import FINAL
from epsilon_dpo.study.verdicts import have_an_interval

COLUMNS = {"kl": "kl", "win_rate_true": "true_win_rate", "win_rate_judge": "win_rate"}  # of policies.csv, in MLflow
DECIMALS = 3  # as on the page
Written = TypeVar("Written")


def by_recipe(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Final policies of a level by recipe and beta, both as written in policies.csv, in the order of their rows."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["place"] == FINAL:
            found.setdefault((row["recipe"], row["beta"]), []).append(row)
    return found


def values_of(rows: Sequence[Row], column: str) -> list[float]:
    """One per replicate that has any."""
    return [float(row[column]) for row in rows if row[column] != ""]


def summary(rows: Sequence[Row], confidence: float) -> list[dict[str, Any]]:
    """One entry per recipe and beta of a level.

    Returns:
        `params`, an entry as in params.yaml; `seeds`, in text; `metrics`: the number of replicates and, by MLflow's
        names, means and Student's intervals over replicates, these of three replicates that differ at least.
    """
    found = []
    for (recipe, beta), own in by_recipe(rows).items():
        entry = json.loads(recipe)
        params = {"method": entry.pop("method")} | ({"beta": float(beta)} if beta else {}) | entry
        metrics: dict[str, float] = {"replicates": len(own)}
        for column, name in COLUMNS.items():
            values = values_of(own, column)
            if have_an_interval(values):
                estimate = mean(values, confidence)
                ends = {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            else:
                ends = {name: float(np.mean(values))} if values else {}
            metrics |= {key: round(value, DECIMALS) for key, value in ends.items()}
        found.append({"params": params, "seeds": " ".join(str(row["seed"]) for row in own), "metrics": metrics})
    return found


def summarise(level: str, rows: Sequence[Row], confidence: float) -> str:
    """Write the summary into the store of the working folder, beside the rows of single trainings.

    Returns:
        the address of the view that shows it; empty where the store cannot be reached, which costs one line.
    """

    def write() -> str:
        from epsilon_dpo.mlflow_writer.replicates import write_summary  # imports mlflow

        return write_summary(level, summary(rows, confidence), f"{confidence:.0%}")

    return in_store(f"the summary of level {level} is not in MLflow", write, "")


def shown(address: str) -> str:
    """What a command adds to its sentence: how the view at `address` is seen; nothing of none."""
    if not address:
        return ""
    return f"; in MLflow: {address}" + (" (while `make ui` runs)" if address.startswith(UI) else "")


def in_store(what: str, write: Callable[[], Written], otherwise: Written) -> Written:
    """What `write` returns, which calls MLflow; where that fails, `otherwise`, and one line that says `what` is so."""
    be_quiet()
    wait_briefly()
    try:
        reach_server(os.environ.get("MLFLOW_TRACKING_URI", ""))
        return write()
    except Exception as error:
        say(f"{what} ({in_short(error)}).")
        return otherwise
