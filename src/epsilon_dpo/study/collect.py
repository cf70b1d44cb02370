"""A finished reproduction as rows of study/results: one per policy, with all that the measures need."""

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np

from epsilon_dpo.analysis.intervals.bootstrap import Floats
from epsilon_dpo.mlflow_writer.environment import environment, output_of, uncommitted
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row, atomic_file, read_json, read_jsonl, write_csv, write_json
from epsilon_dpo.pipeline.stage.manifest import read_manifest
from epsilon_dpo.pipeline.stage.params import PARAMS_FILE, read_yaml
from epsilon_dpo.pipeline.stage.runs import CHOSEN, FACTS, FINAL, SFT, metrics_folder, policy_paths
from epsilon_dpo.pipeline.stage.workplace import workplace
from epsilon_dpo.report.figures.families import NOT_THE_METHOD
from epsilon_dpo.report.figures.points import SCORERS, read_point
from epsilon_dpo.study.claims import STUDY, level_of, preset_of, read_study
from epsilon_dpo.study.foreseen import agreement_beyond_chance, foreseen
from epsilon_dpo.study.summary import in_store, summarise

OWN = {"seed", "threads"}  # of a preset's keys those that a user sets for a replicate on his machine
OWN_IN_BLOCKS = {"path", "revision"}
SEED = re.compile(r"(?m)^seed: *(\d+)")  # of params.yaml; a run's own stands in its braces
MEASURED = ("controls", "score", "kl", "monotonicity")  # stages whose outputs are read
DECIDED = ("eps/lowered", "eps/raised")


def results_folder(level: str) -> Path:
    return STUDY / "results" / level


def read_results(level: str) -> list[Row]:
    """The rows of a level, or none where nobody has run it; numbers are text, as written."""
    file = results_folder(level) / "policies.csv"
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def collect(level: str, project: Path) -> tuple[int, int, str]:
    """Add the replicate that lies in `project` to the results of `level`; rows of the same seed are replaced.

    Returns:
        the number of its policies, that of their rows that are marked in MLflow's store of `project`, and the address
        of the level's summary in the store of this folder, empty where that cannot be reached.

    Raises:
        UserError: the project is not reproduced, its seed or its params are not those of the level, or not those of the
            other replicates; or another process adds to this level.
    """
    params = read_yaml(project / PARAMS_FILE)
    seed = params.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UserError(f"{project / PARAMS_FILE}: seed = {seed!r} is no integer, so this is no replicate.")
    refuse_other_replicates(level, seed, params, project / PARAMS_FILE)
    with workplace(f"collect@{level}"):  # of two at once, one would write the results as they were before the other
        sources = known_replicates(level)
        made = made_from(project, params)
        refuse_other_settings(made, seed, sources, project, results_folder(level))
        refuse_unfinished(project)
        rows = [reference(project / "out", seed)]
        rows += [row for run in params["runs"] for row in policies(project / "out", seed, run, params["runs"])]
        others = [row for row in read_results(level) if int(row["seed"]) != seed]
        folder = results_folder(level)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / "replicates.json") as partial:
            write_json(partial, dict(sorted((sources | {str(seed): made}).items())))
        with atomic_file(folder / "policies.csv") as partial:
            write_csv(partial, sorted([*others, *rows], key=lambda row: int(row["seed"])))
    final = {row["run"]: row["policy_sha256"] for row in rows[1:] if row["place"] == FINAL}
    with chdir(project):
        found = marked(level, seed, final)
    return len(rows), found, summarise(level, read_results(level), read_study().confidence)


def known_replicates(level: str) -> dict[str, Row]:
    """What each collected replicate of a level was made from, by seed."""
    file = results_folder(level) / "replicates.json"
    return read_json(file) if file.is_file() else {}


def refuse_other_replicates(level: str, seed: int, params: dict[str, Any], file: Path) -> None:
    """
    Raises:
        UserError: the level is not known, has no such seed, or `params`, those of `file`, are not its preset's.
    """
    known = level_of(level)
    if seed not in known.seeds:
        raise UserError(f"level {level} has no replicate of seed {seed} (study/claims.yaml has {known.seeds}).")
    if other := different_block(params, read_yaml(preset_of(level, known))):
        raise UserError(
            f"block {other} of {file} is not that of {known.preset}, which the claims of level {level} speak of."
        )


def different_block(params: dict[str, Any], preset: dict[str, Any]) -> str | None:
    """The first block of `params` that differs from the preset's in more than what is a user's own; None: none does."""
    blocks = sorted((set(params) | set(preset)) - OWN)
    return next((name for name in blocks if _without_own(params.get(name)) != _without_own(preset.get(name))), None)


def _without_own(block: Any, of: str | None = None) -> Any:
    """`block` without paths and revisions, a user's own; where `of` is given, without those of that path alone."""
    if not isinstance(block, dict):
        return block
    left_out = OWN_IN_BLOCKS if of is None or block.get("path") == of else set()
    return {name: _without_own(value, of) for name, value in block.items() if name not in left_out}


def refuse_other_settings(made: Row, seed: int | None, others: dict[str, Row], project: Path, folder: Path) -> None:
    """
    Raises:
        UserError: another replicate was made with other params or from another model: they would be averaged as if they
            were alike.
    """
    for other, known in others.items():
        if other == str(seed):
            continue  # it is made anew
        if known["params"] != made["params"]:
            raise UserError(
                f"{project}/params.yaml differs in more than the seed from that of the replicate of seed {other}, "
                f"so the two are not replicates of one another; move {folder} away to begin anew."
            )
        if made["model"] and known.get("model", made["model"]) != made["model"]:
            raise UserError(
                f"the model at base.path of {project}/params.yaml is another than that of the replicate of seed "
                f"{other}, so the two are not replicates of one another; set its path, or move {folder} away."
            )


def marked(level: str, seed: int, policies: Mapping[str, str]) -> int:
    """As `mark_replicate`, in the store of the working folder; one that fails costs one line."""

    def mark() -> int:
        from epsilon_dpo.mlflow_writer.replicates import mark_replicate  # imports mlflow

        return mark_replicate(level, seed, policies)

    return in_store(f"the rows of level {level} are not marked in MLflow", mark, 0)


def refuse_unfinished(project: Path) -> None:
    """
    Raises:
        UserError: a stage whose outputs are read here would run, or one that they come from.
    """
    from epsilon_dpo.provenance.plan.steps import UP_TO_DATE, planned  # imports dvc

    with chdir(project):  # asked without DVC's lock, for which a `dvc repro` in another terminal does not wait
        stale = [step.name for step in planned(MEASURED)[1] if step.action != UP_TO_DATE]
    if stale:
        what = stale[0] if len(stale) == 1 else f"{stale[0]} and {len(stale) - 1} more"
        raise UserError(f"{project} is not reproduced: {what} would run; run `dvc repro {' '.join(MEASURED)}` there.")


def reference(out: Path, seed: int) -> Row:
    """The row of the SFT policy, where every curve begins: KL 0, and its own win rate over the chosen answers."""
    controls = read_json(out / "controls" / "metrics.json")
    rates = {name: controls.get(f"{metric}/{SFT}_vs_{CHOSEN}") for name, (_, metric) in SCORERS.items()}
    row = {"seed": seed, "run": SFT, "recipe": json.dumps({"method": SFT}), "beta": None, "place": FINAL, "epoch": 0.0}
    return row | {"kl": 0.0} | {column_of(scorer): rate for scorer, rate in rates.items()}


def column_of(scorer: str) -> str:
    """`win_rate_judge`, `win_rate_true`."""
    return f"win_rate_{scorer.split()[0]}"


def policies(out: Path, seed: int, run: str, runs: Mapping[str, dict[str, Any]]) -> Iterator[Row]:
    """The rows of a run: its snapshots, then its final policy; moves, decisions and what is foreseen are of the final
    one."""
    entry = runs[run]
    recipe = {key: value for key, value in entry.items() if key not in NOT_THE_METHOD}
    beta = entry.get("beta")
    metrics = metrics_folder(out, run)
    for place in policy_paths(metrics):
        point = read_point(out, run, place)
        final = place == FINAL
        facts = read_json(metrics / "metrics.json") if final else read_json(metrics / place / FACTS)
        row = {"seed": seed, "run": run, "recipe": json.dumps(recipe, sort_keys=True), "beta": beta}
        row |= {"place": place, "epoch": facts["train_epoch" if final else "epoch"], "kl": point.kl.value}
        row |= {column_of(scorer): None for scorer in SCORERS}
        row |= {column_of(scorer): rate.value for scorer, rate in point.win_rate.items()}
        row["prompts"] = len(point.kl_by_prompt)
        row["policy_sha256"] = read_json(out / "kl" / run / place / "metrics.json")["policy_sha256"]
        row |= dict.fromkeys((*MOVES, *DECISIONS))
        if final:
            records = read_jsonl(out / "monotonicity" / run / "records.jsonl")
            row |= moves(read_jsonl(metrics / "metrics.jsonl"), beta) | decisions(records)
            row |= foreseen(out, run, runs, records)
        yield row


MOVES = ("lowered_share", "raised_share", "beta_change")


def moves(curve: Sequence[Row], beta: float | None) -> Row:
    """What a method that decides per pair did in its training; empty for others.

    Returns:
        lowered_share, raised_share: of the pairs of a step, those whose beta was lowered, raised; means over steps.
        beta_change: |log(last beta / first beta)|.
    """
    steps = [row for row in curve if all(name in row for name in (*DECIDED, "eps/beta_next"))]
    if not steps or beta is None:
        return {}
    lowered, raised = (float(np.mean([row[name] for row in steps])) for name in DECIDED)
    change = abs(math.log(steps[-1]["eps/beta_next"] / beta))
    return {"lowered_share": lowered, "raised_share": raised, "beta_change": change}


DECISIONS = ("pairs", "increasing", "decreasing", "margin_gap", "margin_gap_beyond", "against_beta_dpo")


def decisions(records: Sequence[Row]) -> Row:
    """What ε-DPO would decide on the evaluation pairs under a policy, against their margins h (the paper's Figure 4).

    Returns:
        pairs, increasing, decreasing: numbers of pairs.
        margin_gap: mean h of the increasing pairs minus that of the decreasing ones, nats; absent without either.
        margin_gap_beyond: nats. To first order a pair decreases where h > dK, the difference of the answers' KLs, so
            that increasing pairs have small h whatever the data are. This is the gap of that rule on all pairs, minus
            the gap that it has where dK is independent of h: every h with every dK.
        against_beta_dpo: of the decided pairs, the share where β-DPO's rule for a pair would move beta the other way
            (up where h is above the mean), minus the share that the two would have if they were independent.
    """
    h = np.array([record["margin"] for record in records])
    first_order = np.array([record["first_order"] for record in records])
    step = np.array([record["step"] for record in records])
    found: Row = {"pairs": len(h), "increasing": int(np.sum(step < 0)), "decreasing": int(np.sum(step > 0))}
    if found["increasing"] and found["decreasing"]:
        found["margin_gap"] = float(h[step < 0].mean() - h[step > 0].mean())
        up, down = (h > h.mean())[step != 0], (step > 0)[step != 0]
        found["against_beta_dpo"] = agreement_beyond_chance(up, down)
    expected = gap_by_definition(h, h - first_order)
    if expected is not None and min(np.sum(first_order < 0), np.sum(first_order > 0)):
        found["margin_gap_beyond"] = float(h[first_order < 0].mean() - h[first_order > 0].mean()) - expected
    return found


def gap_by_definition(h: Floats, shift: Floats) -> float | None:
    """Mean h below a shift minus mean h above it, over all combinations of the two, [n] each; None without either."""
    above_it = np.searchsorted(np.sort(shift), h, side="left")  # of each h, how many shifts it is above
    below_it = len(shift) - np.searchsorted(np.sort(shift), h, side="right")
    if not (above_it.any() and below_it.any()):
        return None
    return float(np.average(h, weights=below_it) - np.average(h, weights=above_it))


def made_from(project: Path, params: dict[str, Any]) -> Row:
    """What computes a replicate's values again: commit, params, a pretrained model, versions, and who collected it."""
    changed = uncommitted(project, "params.yaml", "study", "docs/replication.md")  # what a study itself writes
    pins = read_yaml(project / "pins.yaml")
    own = {name: block for name, block in params.items() if name not in OWN}
    path = params.get("base", {}).get("path")  # of a model that `_pretrained` knows by its content
    values = json.dumps(own if path is None else _without_own(own, path), sort_keys=True)
    return {
        "commit": output_of(["git", "-C", str(project), "rev-parse", "HEAD"]) or "unknown",
        "uncommitted_changes": changed is not False,  # also where git does not say
        "params": hashlib.sha256(values.encode()).hexdigest(),  # of values: a comment makes no other params
        "model": _pretrained(project, params),
        "collected_on": environment(project)["processor"],
        **{package: pins[package] for package in ("torch", "transformers")},
    }


def _pretrained(project: Path, params: dict[str, Any]) -> dict[str, str] | None:
    """sha256 of the weights, by file, of a model that is not made from the seed, wherever it lies; None: not there yet.

    Not the md5 that dvc.lock has of the folder: its manifest has the seed.
    """
    if "path" not in params.get("base", {}):
        return None
    made = read_manifest(project / "out" / "base" / "model")
    return made["weights_sha256"] if made else None
