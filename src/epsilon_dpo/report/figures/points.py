"""A policy as a point: its KL and its wins on every prompt, and the same as estimates with intervals."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epsilon_dpo.analysis.intervals.bootstrap import Floats
from epsilon_dpo.analysis.intervals.rates import Estimate
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row, read_json, read_jsonl
from epsilon_dpo.pipeline.stage.runs import CHOSEN

KL = "kl_fwd_rb"  # KL(reference || policy), Rao-Blackwellised: of least variance (analysis/kl/estimators.py)
ENDS = ("", "_low", "_high")  # of the columns of an estimate
OPPONENT = CHOSEN  # as in the paper: wins over the dataset's chosen answers
SCORERS = {"judge": ("win", "win_rate"), "true reward": ("true_win", "true_win_rate")}  # field of records, metric


@dataclass(frozen=True)
class Point:
    """A policy of a run: its final one, or a snapshot from within its training.

    Attributes:
        kl: KL(reference || policy), nats per answer.
        kl_by_prompt: [prompts], its mean over each prompt's answers.
        win_rate: over the chosen answers, by scorer.
        wins_by_prompt: mean win on each prompt by scorer, [prompts], in the same order.
        answers: to each prompt, [prompts]; `kl` and `win_rate` are means over answers, of which a prompt that several
            rows of the data share has more than others.
    """

    run: str
    kl: Estimate
    kl_by_prompt: Floats
    win_rate: dict[str, Estimate]
    wins_by_prompt: dict[str, Floats]
    answers: NDArray[np.int_]


def read_point(out: Path, run: str, place: str = ".") -> Point:
    """The policy of `run` at `place` below out/<stage>/<run>, from out/score and out/kl; "." is the final one.

    Raises:
        UserError: the two speak of different policies or prompts.
    """
    score, kl = out / "score" / run / place, out / "kl" / run / place
    scored, distance = read_json(score / "metrics.json"), read_json(kl / "metrics.json")
    wins = [record for record in read_jsonl(score / "records.jsonl") if record["opponent"] == OPPONENT]
    prompts, kls, answers = _by_prompt([record for record in read_jsonl(kl / "records.jsonl") if KL in record], KL)
    scorers = {name: names for name, names in SCORERS.items() if f"{names[1]}/{OPPONENT}" in scored}
    by_prompt = {}
    for name, (field, _) in scorers.items():
        answered, by_prompt[name], won = _by_prompt(wins, field)
        same = answered == prompts and np.array_equal(won, answers)
        if scored["policy_sha256"] != distance["policy_sha256"] or not same:
            raise UserError(f"{score} and {kl} are of different policies or prompts; run `dvc repro`.")
    return Point(
        run=run,
        kl=read_estimate(distance, KL),
        kl_by_prompt=kls,
        win_rate={name: read_estimate(scored, f"{metric}/{OPPONENT}") for name, (_, metric) in scorers.items()},
        wins_by_prompt=by_prompt,
        answers=answers,
    )


def read_estimate(metrics: Row, name: str) -> Estimate:
    """`name` of a metrics.json, with its interval."""
    return Estimate(metrics[name], metrics[f"{name}_low"], metrics[f"{name}_high"], metrics[f"{name}_n"])


def _by_prompt(records: list[Row], field: str) -> tuple[list[str], Floats, NDArray[np.int_]]:
    """The prompts of `records`, sorted, the mean of `field` on each, and how many records each has."""
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        values[record["prompt_id"]].append(record[field])
    prompts = sorted(values)
    means = np.array([np.mean(values[prompt]) for prompt in prompts])
    return prompts, means, np.array([len(values[prompt]) for prompt in prompts])
