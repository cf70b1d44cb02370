"""`epsilon-dpo plan` in one call: the plan as a table or as JSON, or a refusal if other stages would run."""

import argparse
import json
from collections.abc import Sequence
from fnmatch import fnmatchcase

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.provenance.graph.project import at_work
from epsilon_dpo.provenance.plan.steps import MAY_RUN, RUN, Step, planned
from epsilon_dpo.provenance.plan.table import accepting, names, table


def plan(asked: argparse.Namespace) -> str:
    """What is printed.

    Args:
        asked: targets (as of `dvc repro`), assert_only (globs, or None) and json.

    Raises:
        UserError: DVC cannot read the project, or with assert_only another stage would run.
    """
    project, steps = planned(asked.targets)
    if asked.assert_only is not None:
        refuse_others(steps, asked.assert_only)
    every = [name for file in project.files.values() for name in file.stages]
    if asked.json:
        return as_json(steps, list(project.gone()), every)
    return table(steps, list(project.gone()), at_work(project.repo), every)


def refuse_others(steps: Sequence[Step], globs: Sequence[str]) -> None:
    """Nothing, if each stage that would run, or may, matches one of `globs`.

    Raises:
        UserError: others would; it names them.
    """
    others = [
        step.name
        for step in steps
        if step.action in (RUN, MAY_RUN) and not any(fnmatchcase(step.name, glob) for glob in globs)
    ]
    if others:
        found = ", ".join(names(others, [step.name for step in steps]))
        raise UserError(f"stages other than {' and '.join(globs)} would run: {found}; `epsilon-dpo plan` says why.")


def as_json(steps: Sequence[Step], gone: Sequence[str], every: Sequence[str] | None = None) -> str:
    """All stages, those that are up to date included; `every` as of `accepting`."""
    stages = [
        {
            "stage": step.name,
            "action": step.action,
            "causes": [vars(cause) for cause in step.causes],
            "after": step.after,
            "keeps_its_bytes": step.keeps,
            "seconds": step.seconds,
            "bytes": step.size,
            "estimated_from": step.like or step.name,
        }
        for step in steps
    ]
    return json.dumps(
        {"stages": stages, "accept": accepting(steps, every), "gone": list(gone)}, indent=1, ensure_ascii=False
    )
