"""Stages `score` and `controls` in one call each: answers judged, as records and as the rates that they add up to."""

from pathlib import Path
from typing import Any

from epsilon_dpo.judging.judges.interface import Judge
from epsilon_dpo.judging.scoring.comparisons import control_comparisons, read_same_prompts, run_comparisons
from epsilon_dpo.judging.scoring.intervals import Intervals
from epsilon_dpo.judging.scoring.scoring import (
    Truth,
    by_opponent,
    judge_comparisons,
    refuse_preference_among_equals,
)
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_json, write_jsonl
from epsilon_dpo.pipeline.stage.runs import FINAL, make_place, policy_paths

Facts = dict[str, Any]


def score_run(
    judge: Judge, truth: Truth | None, sampled: Path, reference: Path, intervals: Intervals, out: Path
) -> tuple[dict[str, float], Facts]:
    """Write records.jsonl and metrics.json of every policy of a run, each at the place below `out` that it has
    below `sampled`.

    Args:
        sampled: out/sample/RUN.
        reference: the samples.jsonl of the SFT policy.

    Returns:
        of the final policy the metrics of scoring.by_opponent, with what judging all of the run's policies cost
        (Judge.usage), and `confidence`, `n` (answers) and `policy_sha256`; its metrics.json holds both.

    Raises:
        UserError: the two did not answer the same prompts.
    """
    found = {}
    for place in policy_paths(sampled):
        samples, others = read_same_prompts(sampled / place / "samples.jsonl", reference)
        records = judge_comparisons(judge, run_comparisons(samples, others), truth)
        metrics = by_opponent(records, intervals)
        if place == FINAL:  # it comes last
            metrics |= judge.usage()
        policy_sha256 = read_json(sampled / place / "metrics.json")["policy_sha256"]
        facts = {"confidence": intervals.confidence, "n": len(samples), "policy_sha256": policy_sha256}
        folder = make_place(out, place)
        write_jsonl(folder / "records.jsonl", records)
        write_json(folder / "metrics.json", {**metrics, **facts})
        found[place] = metrics, facts
    return found[FINAL]


def score_controls(
    judge: Judge, truth: Truth | None, reference: Path, pairs: Path, intervals: Intervals, seed: int, out: Path
) -> tuple[dict[str, float], Facts]:
    """Write records.jsonl and metrics.json of comparisons.control_comparisons to `out`.

    Args:
        reference: the samples.jsonl of the SFT policy.
        pairs: the evaluation pairs, out/validate/eval.jsonl.
        seed: RNG seed that draws the answers to other prompts.

    Returns:
        the metrics of scoring.by_opponent with what judging cost (Judge.usage), and `confidence` and `n` (answers).

    Raises:
        UserError: `reference` answers a row that is not among the pairs.
        RuntimeError: the judge prefers one of two identical answers.
    """
    samples = read_jsonl(reference)
    records = judge_comparisons(judge, control_comparisons(samples, read_jsonl(pairs), seed), truth)
    refuse_preference_among_equals(records)
    metrics = by_opponent(records, intervals) | judge.usage()
    facts = {"confidence": intervals.confidence, "n": len(samples)}
    write_jsonl(out / "records.jsonl", records)
    write_json(out / "metrics.json", {**metrics, **facts})
    return metrics, facts
