"""What a policy's margins foresee: of trainings at another beta, by mixed logits, and of the true rewards.

ε-DPO takes policy logits mixed with those of the reference for the policies that were trained at beta/(1 + ε) and
beta/(1 - ε) (the paper's section 3.3, Proposition 1). Where these were trained, their margins on the same pairs say
whether they are.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from epsilon_dpo.judging.scoring.scoring import known_truth
from epsilon_dpo.pipeline.stage.files import Row, read_json, read_jsonl

SAME_BETA = 1e-5  # relative: presets write beta/(1 + ε) with six digits


def foreseen(out: Path, run: str, runs: Mapping[str, dict[str, Any]]) -> Row:
    """The values of `beside_trainings` of a run and `margin_quality`, as far as there is what they need.

    Args:
        out: the outputs of all stages.
        runs: of params.yaml.
    """
    records = read_jsonl(out / "monotonicity" / run / "records.jsonl")
    found: Row = {}
    lower, higher = neighbours(run, runs, float(read_json(out / "monotonicity" / run / "metrics.json")["epsilon"]))
    if lower is not None and higher is not None:
        trained = [read_jsonl(out / "monotonicity" / name / "records.jsonl") for name in (lower, higher)]
        found = beside_trainings(records, *trained)
    if truth := known_truth(out / "validate" / "dataset.json"):
        pairs = {row["id"]: row for row in read_jsonl(out / "validate" / "eval.jsonl")}
        true = [
            truth(pair["chosen"][:-1], pair["chosen"][-1]["content"])
            - truth(pair["rejected"][:-1], pair["rejected"][-1]["content"])
            for pair in (pairs[record["id"]] for record in records)
        ]
        found["margin_quality"] = margin_quality([record["margin"] for record in records], true)
    return found


def neighbours(run: str, runs: Mapping[str, dict[str, Any]], epsilon: float) -> tuple[str | None, str | None]:
    """The runs that differ from `run` in beta alone, which is beta/(1 + ε) and beta/(1 - ε)."""
    own = runs[run]

    def at(beta: float) -> str | None:
        alike = (
            name
            for name, entry in runs.items()
            if entry.keys() == own.keys()
            and {**entry, "beta": None} == {**own, "beta": None}
            and math.isclose(entry["beta"], beta, rel_tol=SAME_BETA)
        )
        return next(alike, None)

    if not isinstance(own.get("beta"), float | int):
        return None, None
    return at(own["beta"] / (1.0 + epsilon)), at(own["beta"] / (1.0 - epsilon))


def beside_trainings(own: Sequence[Row], lower: Sequence[Row], higher: Sequence[Row]) -> Row:
    """How far what mixed logits say of a pair is what the trainings at the perturbed beta did.

    Args:
        own, lower, higher: records of stage monotonicity, of the same pairs in the same order, under the policies that
            were trained at beta, beta/(1 + ε) and beta/(1 - ε), all else being the same.

    Returns:
        mixture_nearer: 1 minus the mean squared distance of z_minus and z_plus from the margins z of the policies
            trained there, over the same distance of z: 1 where they are those margins, 0 where nothing is gained.
        change_slope: the slope, through the origin, of the changes of z that trainings made on those foreseen.
        change_repeats: the correlation of the changes that the two trainings made, to one side and to the other: below
            1 by what is chance in them.
        decision_agreement: of the pairs that are decided by mixed logits and by the trainings' margins, the share that
            is decided alike, minus the share that would be if the two were independent.
        agreement_beyond_margin: of the same pairs, the share decided alike minus the share of those whose log-ratio
            margin h has the sign of the trainings' decision: what the KL terms of the mixture add.
    """
    if len({tuple(record["id"] for record in records) for records in (own, lower, higher)}) > 1:
        raise ValueError("the policies' records are not of the same pairs")
    z, z_lower, z_higher = (np.array([record["z"] for record in records]) for records in (own, lower, higher))
    names = ("delta_minus", "delta_plus", "step", "margin")
    minus, plus, step, h = (np.array([record[name] for record in own]) for name in names)
    down, up = z_lower - z, z_higher - z
    predicted, made = np.concatenate([minus, plus]), np.concatenate([down, up])
    found: Row = {
        "mixture_nearer": float(1.0 - np.mean((predicted - made) ** 2) / np.mean(made**2)),
        "change_slope": float(np.sum(predicted * made) / np.sum(predicted**2)),
        "change_repeats": float(np.corrcoef(down, -up)[0, 1]),
    }
    trained = np.where((down > 0) & (up < 0), 1, np.where((down < 0) & (up > 0), -1, 0))
    both = (step != 0) & (trained != 0)
    if both.any():
        lowers, lowered = step[both] > 0, trained[both] > 0
        alike = float(np.mean(lowers == lowered))
        chance = lowers.mean() * lowered.mean() + (1.0 - lowers.mean()) * (1.0 - lowered.mean())
        found["decision_agreement"] = float(alike - chance)
        found["agreement_beyond_margin"] = float(alike - np.mean((h[both] > 0) == lowered))
    return found


def margin_quality(margins: Sequence[float], true: Sequence[float]) -> float:
    """Spearman's rank correlation of log-ratio margins with true ones."""
    return float(spearmanr(margins, true).statistic)
