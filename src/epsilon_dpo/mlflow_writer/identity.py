"""By which tags a run is found: stage, run, method, `dvc repro`, experiment, report."""

import ast
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from epsilon_dpo.pipeline.stage.lifetime import is_dvc
from epsilon_dpo.pipeline.stage.params import in_yaml

IN_REPORT, RECIPE = "in_report", "recipe"
NOT_IN_A_NAME = re.compile(r"[^\w.:/ -]")  # of a tag of MLflow's
NOT_THE_RECIPE = ("seed", "snapshot_epochs")


def identity(name: str, params: dict[str, Any]) -> dict[str, str]:
    """Stage and, where it has one, run, its method and recipe; a policy's row is in no report until one says so."""
    stage, _, run = name.partition("@")
    tags = {"stage": stage} | ({"run": run} if run else {}) | ({IN_REPORT: "false"} if stage == "align" else {})
    config = params.get(f"runs.{run}", {})
    return tags | ({"method": str(config["method"]), RECIPE: recipe(config)} if config.get("method") else {})


def recipe(config: dict[str, Any]) -> str:
    """`dpo, beta 0.3`: a run's entry in params.yaml without its seed, and without what changes no training.

    MLflow groups by this text: it is the same in whatever order the keys stand, and of 1 and 1.0.
    """
    own = {key: value for key, value in flat(config) if key not in NOT_THE_RECIPE and value is not None}
    method = str(own.pop("method", ""))
    in_order = sorted(own.items(), key=lambda item: (item[0] != "beta", item[0]))
    return ", ".join([method, *(f"{key} {in_yaml(_whole(value))}" for key, value in in_order)])


def recipe_of(logged: Mapping[str, str]) -> str | None:
    """The recipe of a row, from its params as MLflow keeps them, which is Python's text of each; None: it has none."""
    own = {key.removeprefix("run."): _value(text) for key, text in logged.items() if key.startswith("run.")}
    return recipe(own) if own.get("method") else None


def _value(text: str) -> Any:
    with suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def made_by(pid: int | None) -> dict[str, str]:
    """Which `dvc repro` started the stage of process `pid`, and for which experiment of `dvc exp run`."""
    tags = {}
    if name := os.environ.get("DVC_EXP_NAME"):
        tags["experiment"] = name
    with suppress(psutil.Error):  # it has ended by now, or is another user's
        for parent in psutil.Process(pid).parents() if pid else []:
            if is_dvc(parent):  # the nearest: above it may be the worker of a queue, with one child per experiment
                tags["repro"] = f"{parent.create_time():.0f}-{parent.pid}"
                break
    return tags


def report_mark() -> str:
    """The tag of the rows in the last report: `in_report`, or `in_report.NAME` in an experiment's copy of the project.

    Experiments of a queue run side by side, and each has a report of its own. Characters that MLflow refuses in a tag's
    name, such as the = of an experiment `eps=0.02`, become underscores.
    """
    name = os.environ.get("DVC_EXP_NAME")
    workspace = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    apart = (workspace / ".dvc" / "tmp") in Path.cwd().resolve().parents
    return f"{IN_REPORT}.{NOT_IN_A_NAME.sub('_', name)}" if name and apart else IN_REPORT


def accepted(name: str) -> str:
    """`name` without the characters that MLflow refuses in names of metrics and params."""
    return re.sub(r"[^\w/ .:-]", "_", name)


def flat(params: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by dotted key; a run's own are `run.beta` whatever its name, so that they share a column."""
    for key, value in params.items():
        key = re.sub(r"^runs\.\w+$", "run", key)
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield accepted(f"{prefix}{key}"), value
