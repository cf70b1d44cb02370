"""Numbers of a stage as MLflow's metrics: what they are called there, and when they were made."""

from typing import Any

from mlflow.entities import Metric

from epsilon_dpo.mlflow_writer.identity import accepted
from epsilon_dpo.mlflow_writer.view import CURVE


def named(metrics: dict[str, Any], step: int) -> dict[str, Any]:
    """The page sorts groups by name: the curves of a training come before what is one number."""
    return {f"{CURVE}{name}": value for name, value in metrics.items()} if step else metrics


def curve(row: dict[str, Any], at: int) -> list[Metric]:
    """A row of metrics.jsonl."""
    step = int(row["step"])
    return as_metrics(named({name: value for name, value in row.items() if name != "step"}, step), step, at)


def as_metrics(metrics: dict[str, Any], step: int, at: int) -> list[Metric]:
    """The numeric values of `metrics`, names without the characters that MLflow refuses; `step` is no metric."""
    return [
        Metric(accepted(name), float(value), at, step)
        for name, value in metrics.items()
        if isinstance(value, int | float) and name != "step"
    ]
