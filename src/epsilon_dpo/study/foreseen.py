"""What a policy's margins foresee: of trainings at another beta, by mixed logits, and of the true rewards.

ε-DPO takes policy logits mixed with those of the reference for the policies that were trained at beta/(1 + ε) and
beta/(1 - ε) (the paper's section 3.3, Proposition 1, which is of optimal policies). Where these were trained, their
margins on the same pairs say how near that is.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from epsilon_dpo.analysis.intervals.bootstrap import Floats
from epsilon_dpo.judging.scoring.scoring import known_truth
from epsilon_dpo.pipeline.stage.files import Row, read_json, read_jsonl

SAME_BETA = 1e-5  # relative: presets write beta/(1 + ε) with six digits


def foreseen(out: Path, run: str, runs: Mapping[str, dict[str, Any]], records: Sequence[Row]) -> Row:
    """The values of `beside_trainings` and `beside_true_rewards` of a run, as far as there is what they need.

    Args:
        out: the outputs of all stages.
        runs: of params.yaml.
        records: of the run, of stage monotonicity.
    """
    found: Row = {}
    lower, higher = neighbours(run, runs, float(read_json(out / "monotonicity" / run / "metrics.json")["epsilon"]))
    if lower is not None and higher is not None:
        trained = [read_jsonl(out / "monotonicity" / name / "records.jsonl") for name in (lower, higher)]
        found = beside_trainings(records, *trained)
    if truth := known_truth(out / "validate" / "dataset.json"):
        pairs = {row["id"]: row for row in read_jsonl(out / "validate" / "eval.jsonl")}
        true = [
            truth(pair["prompt"], pair["chosen"][-1]["content"])
            - truth(pair["prompt"], pair["rejected"][-1]["content"])
            for pair in (pairs[record["id"]] for record in records)
        ]
        found |= beside_true_rewards([record["margin"] for record in records], true)
    return found


def neighbours(run: str, runs: Mapping[str, dict[str, Any]], epsilon: float) -> tuple[str | None, str | None]:
    """The runs at beta/(1 + ε) and at beta/(1 - ε) that differ from `run` in nothing else; None: there is none."""
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
    """How well the mixed logits of a pair foresee what the trainings at the perturbed beta made of it.

    Foreseen is P = z_minus - z_plus, the difference of a pair's margins under the logits mixed for beta/(1 + ε) and for
    beta/(1 - ε); made is D, the same difference of the policies that were trained there. Neither holds the own policy's
    margin z, whose chance would enter both.

    Args:
        own, lower, higher: records of stage monotonicity, of the same pairs in the same order, under the policies that
            were trained at beta, beta/(1 + ε) and beta/(1 - ε), all else being the same.

    Returns:
        mixture_nearer: (sum D^2 - sum (P - D)^2) / (sum D^2 + sum (P - D)^2): 1 where P is D, 0 where it is as far from
            D as no change is, at least -1.
        change_slope: sum P D / sum P^2, the slope of D on P through the origin.
        foreseen_order: Spearman's correlation of P and D.
        order_beyond_margin: that minus the one of the log-ratio margins h and D.
        decision_agreement: of the pairs whose step is +1 or -1, the share with the sign of D, minus the share that
            would have it if the two were independent; 0 where all of either go one way.
        change_reliability: 1 - var(C) / (3 var(D)), C = z_lower + z_higher - 2 z, the share of the variance of D that
            is smooth in beta: 0 where the three margins of a pair differ by independent chance alone, of equal size.
    """
    if len({tuple(record["id"] for record in records) for records in (own, lower, higher)}) > 1:
        raise ValueError("the policies' records are not of the same pairs")
    z, z_lower, z_higher = (np.array([record["z"] for record in records]) for records in (own, lower, higher))
    names = ("delta_minus", "delta_plus", "step", "margin")
    minus, plus, step, h = (np.array([record[name] for record in own]) for name in names)
    predicted, made, curved = minus - plus, z_lower - z_higher, z_lower + z_higher - 2.0 * z
    none, left = np.sum(made**2), np.sum((predicted - made) ** 2)
    order = correlation_of_ranks(predicted, made)
    found = {
        "mixture_nearer": float((none - left) / (none + left)),
        "change_slope": float(np.sum(predicted * made) / np.sum(predicted**2)),
        "foreseen_order": order,
        "order_beyond_margin": order - correlation_of_ranks(h, made),
        "change_reliability": float(1.0 - np.var(curved) / (3.0 * np.var(made))),
    }
    if (decided := step != 0).any():
        lowers, lowered = step[decided] > 0, made[decided] > 0
        found["decision_agreement"] = agreement_beyond_chance(lowers, lowered)
    return found


def agreement_beyond_chance(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """The share of places at which two decisions, [n] each, are alike, minus the share if they were independent."""
    chance = first.mean() * second.mean() + (1.0 - first.mean()) * (1.0 - second.mean())
    return float(np.mean(first == second) - chance)


def beside_true_rewards(margins: Sequence[float], true: Sequence[float]) -> Row:
    """How far margins represent the quality of pairs: by how much one answer is better, and which one that is.

    Pairs whose answers are worth the same are left out: neither answer is the better one.

    Args:
        margins: log-ratio margins of the chosen answers over the rejected ones, nats, [n].
        true: differences of the true rewards, chosen minus rejected, [n].

    Returns:
        quality_order: Spearman's correlation of the two, each of the truly better answer minus the other one, so that
            it is 0 where margins know which answer is better and nothing of by how much. With each pair both ways
            round, the signs alone would make it 3/4. Absent where all true differences have one size.
        wrong_order: the share of the pairs whose margin prefers the worse answer; a margin of 0 counts half.
        wrong_labels: the share whose chosen answer is the worse one.

        Nothing where no pair has a better answer.
    """
    h, difference = np.array(margins), np.array(true)
    if not (unequal := difference != 0).any():
        return {}
    chosen_is_better = np.sign(difference[unequal])
    of_the_better, better_by = h[unequal] * chosen_is_better, np.abs(difference[unequal])
    found: Row = {
        "wrong_order": float(np.mean(of_the_better < 0) + np.mean(of_the_better == 0) / 2),
        "wrong_labels": float(np.mean(chosen_is_better < 0)),
    }
    if np.ptp(better_by) > 0:
        found["quality_order"] = correlation_of_ranks(of_the_better, better_by)
    return found


def correlation_of_ranks(first: Floats, second: Floats) -> float:
    """Spearman's, of [n] and [n]."""
    return float(spearmanr(first, second).statistic)
