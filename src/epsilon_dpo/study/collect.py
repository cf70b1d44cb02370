"""A finished reproduction as rows of study/results: one per policy, with all that the measures need."""

import csv
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from epsilon_dpo.analysis.intervals.bootstrap import Floats
from epsilon_dpo.mlflow_writer.environment import LIBRARIES, environment
from epsilon_dpo.mlflow_writer.server import in_short
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.runs.runs import FACTS, FINAL, metrics_folder, policy_paths
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_csv, write_json
from epsilon_dpo.report.figures.points import SCORERS, read_point
from epsilon_dpo.study.claims import STUDY
from epsilon_dpo.study.measures import Row

NOT_THE_RECIPE = ("beta", "seed", "snapshot_epochs")
MEASURED = ("score", "kl", "monotonicity")  # stages whose outputs are read
DECIDED = ("eps/lowered", "eps/raised")


def results_folder(level: str, study: Path = STUDY) -> Path:
    return study / "results" / level


def read_results(level: str, study: Path = STUDY) -> list[Row]:
    """The rows of a level, or none where nobody has run it; numbers are text, as written."""
    file = results_folder(level, study) / "policies.csv"
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def collect(level: str, project: Path, study: Path = STUDY) -> tuple[int, int]:
    """Add the replicate that lies in `project` to the results of `level`; rows of the same seed are replaced.

    Returns:
        the number of its policies, and of those that are marked in MLflow's store.

    Raises:
        UserError: the project is not reproduced.
    """
    refuse_unfinished(project)
    params = yaml.safe_load((project / "params.yaml").read_text("utf-8"))
    seed = int(params["seed"])
    rows = [row for run, entry in params["runs"].items() for row in policies(project / "out", seed, run, entry)]
    others = [row for row in read_results(level, study) if int(row["seed"]) != seed]
    folder = results_folder(level, study)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "policies.csv.partial"
    write_csv(partial, sorted([*others, *rows], key=lambda row: int(row["seed"])))
    partial.replace(folder / "policies.csv")
    sources = read_json(folder / "replicates.json") if (folder / "replicates.json").is_file() else {}
    sources[str(seed)] = made_from(project)
    write_json(folder / "replicates.json", dict(sorted(sources.items())))
    final = {row["run"]: row["policy_sha256"] for row in rows if row["place"] == FINAL}
    return len(rows), marked(level, final)


def marked(level: str, policies: Mapping[str, str]) -> int:
    """As `mark_replicate`; no MLflow store, or one that fails, costs one line."""
    from epsilon_dpo.mlflow_writer.replicates import mark_replicate  # imports mlflow

    try:
        return mark_replicate(level, policies)
    except Exception as error:
        print(f"tracking: the rows of level {level} are not marked in MLflow ({in_short(error)}).", file=sys.stderr)
        return 0


def refuse_unfinished(project: Path) -> None:
    """
    Raises:
        UserError: a stage whose outputs are read here would run, or one that they come from.
    """
    command = [sys.executable, "-m", "dvc", "status", "--json", "--with-deps", *MEASURED]
    found = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if found.returncode:
        raise UserError(f"`dvc status` fails in {project}: {found.stderr.strip()}")
    if stale := sorted(json.loads(found.stdout)):
        what = f"{stale[0]}{f' and {len(stale) - 1} more' * (len(stale) > 1)}"
        raise UserError(f"{project} is not reproduced: {what} would run; `dvc repro {' '.join(MEASURED)}` there.")


def policies(out: Path, seed: int, run: str, entry: dict[str, Any]) -> Iterator[Row]:
    """The rows of a run: its snapshots, then its final policy; beta moves and pairs are of the final one."""
    recipe = {key: value for key, value in entry.items() if key not in NOT_THE_RECIPE}
    metrics = metrics_folder(out, run)
    for place in policy_paths(metrics):
        point = read_point(out, run, place)
        final = place == FINAL
        facts = read_json(metrics / "metrics.json") if final else read_json(metrics / place / FACTS)
        row = {"seed": seed, "run": run, "recipe": json.dumps(recipe, sort_keys=True), "beta": entry["beta"]}
        row |= {"place": place, "epoch": facts["train_epoch" if final else "epoch"], "kl": point.kl.value}
        row |= {f"win_rate_{name.split()[0]}": None for name in SCORERS}
        row |= {f"win_rate_{name.split()[0]}": rate.value for name, rate in point.win_rate.items()}
        row["prompts"] = len(point.kl_by_prompt)
        row["policy_sha256"] = read_json(out / "kl" / run / place / "metrics.json")["policy_sha256"]
        moved = moves(read_jsonl(metrics / "metrics.jsonl"), float(entry["beta"])) if final else {}
        decided = decisions(read_jsonl(out / "monotonicity" / run / "records.jsonl")) if final else {}
        yield row | {name: moved.get(name) for name in MOVES} | {name: decided.get(name) for name in DECISIONS}


MOVES = ("decided_share", "beta_change")


def moves(curve: Sequence[Row], beta: float) -> Row:
    """What a method that decides per pair did in its training; empty for others.

    Returns:
        decided_share: of the pairs of a step, those whose beta was lowered or raised, the mean over steps.
        beta_change: |log(last beta / first beta)|.
    """
    steps = [row for row in curve if DECIDED[0] in row]
    if not steps:
        return {}
    shares = [sum(row[name] for name in DECIDED) for row in steps]
    return {
        "decided_share": float(np.mean(shares)),
        "beta_change": abs(math.log(steps[-1]["eps/beta_next"] / beta)),
    }


DECISIONS = ("pairs", "increasing", "decreasing", "margin_gap", "margin_gap_beyond", "against_beta_dpo")


def decisions(records: Sequence[Row]) -> Row:
    """What ε-DPO would decide on the evaluation pairs under a policy, against their margins h (the paper's Figure 4).

    Returns:
        pairs, increasing, decreasing: numbers of pairs.
        margin_gap: mean h of the increasing pairs minus that of the decreasing ones, nats.
        margin_gap_beyond: the same without what the definition brings: the decision is nearly the sign of h - dK, dK
            the difference of the answers' KLs, so that increasing pairs have small h whatever the data are. Taken off
            is the gap that the rule has where dK is independent of h: every h with every dK.
        against_beta_dpo: of the pairs that are decided, the share where β-DPO moves beta the other way: it raises beta
            where h is above its mean, ε-DPO lowers beta on decreasing pairs.
    """
    h = np.array([record["margin"] for record in records])
    shift = h - np.array([record["first_order"] for record in records])  # K_w - K_l
    step = np.array([record["step"] for record in records])
    found: Row = {"pairs": len(h), "increasing": int(np.sum(step < 0)), "decreasing": int(np.sum(step > 0))}
    if not (found["increasing"] and found["decreasing"]):
        return found
    gap = float(h[step < 0].mean() - h[step > 0].mean())
    return found | {
        "margin_gap": gap,
        "margin_gap_beyond": gap - gap_by_definition(h, shift),
        "against_beta_dpo": float(np.mean(np.sign(h - h.mean())[step != 0] == step[step != 0])),
    }


def gap_by_definition(h: Floats, shift: Floats) -> float:
    """Mean h below a shift minus mean h above it, over all combinations of the two, [n] each."""
    below = np.searchsorted(np.sort(shift), h, side="left")  # of each h, how many shifts it is above
    above = len(shift) - np.searchsorted(np.sort(shift), h, side="right")
    return float(np.average(h, weights=above) - np.average(h, weights=below))


def made_from(project: Path) -> Row:
    """Commit, params and machine of a replicate: what computes its values again."""
    facts = environment(project)
    names = ("python", "processor", "processor.variables", *LIBRARIES)
    return {
        "commit": facts.get("mlflow.source.git.commit", "unknown"),
        "uncommitted_changes": facts.get("git.uncommitted_changes", "unknown"),
        "params_sha256": hashlib.sha256((project / "params.yaml").read_bytes()).hexdigest(),
        **{name: facts[name] for name in names},
    }
