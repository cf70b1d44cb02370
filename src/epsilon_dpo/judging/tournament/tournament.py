"""All runs on one scale: each against each by the judge, and the Bradley-Terry strengths that explain the results.

Runs are compared with each other here; how they compare with SFT and the chosen answers is in the records of stages
score and controls, so that nothing is judged twice.

All runs drew their answers with the same random numbers (sampling/answers/drawing.py), so similar runs often say the
same, which is a tie. What is estimated of two runs is therefore the outcome of answers drawn together: it is not that
of answers drawn independently of each other, from which it may differ in either direction (docs/statistics.md). Games
against SFT and the chosen answers are between independent answers.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from epsilon_dpo.judging.judges.interface import Judge, Question
from epsilon_dpo.judging.scoring.comparisons import Comparison, read_same_prompts
from epsilon_dpo.judging.scoring.intervals import DRAWS, Intervals
from epsilon_dpo.judging.scoring.scoring import Truth, judge_comparisons
from epsilon_dpo.judging.tournament.ranking import ranking
from epsilon_dpo.pipeline.stage.files import Row, read_jsonl, write_json, write_jsonl
from epsilon_dpo.pipeline.stage.runs import CHOSEN, SFT


def play(
    judge: Judge,
    truth: Truth | None,
    runs: Sequence[str],
    outputs: Path,
    max_prompts: int | None,
    intervals: Intervals,
    out: Path,
) -> tuple[dict[str, list[Row]], int]:
    """Judge every two of `runs`; write the records of that, records.jsonl, what it cost (Judge.usage), usage.json, and
    ranking.json to `out`.

    Args:
        outputs: folder of what stages sample, reference, score and controls wrote.

    Returns:
        the content of ranking.json, the `table` of each scorer (`win` and, with a truth, `true_win`), and on how many
        prompts was played.

    Raises:
        UserError: two runs did not answer the same prompts.
    """
    reference = outputs / "reference" / "samples.jsonl"
    samples = {run: read_same_prompts(outputs / "sample" / run / "samples.jsonl", reference)[0] for run in runs}
    prompts = first_prompts(next(iter(samples.values())), max_prompts)
    records = judge_comparisons(judge, run_against_run(samples, prompts), truth)
    write_jsonl(out / "records.jsonl", records)
    write_json(out / "usage.json", judge.usage())
    for run in runs:
        own = read_jsonl(outputs / "score" / run / "records.jsonl")  # whose answers are called `run` there
        records += [record | {"answer": run} for record in own]
    records += read_jsonl(outputs / "controls" / "records.jsonl")
    games = games_of(records, prompts, set(runs))
    fields = ("win", "true_win") if truth else ("win",)
    tables = {field: table(games, field, intervals.confidence, intervals.seed) for field in fields}
    write_json(out / "ranking.json", tables)
    return tables, len(prompts)


def first_prompts(samples: list[Row], limit: int | None) -> frozenset[str]:
    """The ids of the prompts to play on: all, or the `limit` smallest (ids are hashes, so this favours none)."""
    return frozenset(sorted({row["prompt_id"] for row in samples})[:limit])


def run_against_run(samples: dict[str, list[Row]], prompts: frozenset[str]) -> list[Comparison]:
    """Every two runs on the prompts given; their rows answer the same prompts in the same order."""
    return [
        Comparison(
            row["id"], Question(row["prompt"], row["response"], other["response"]), first, second, row["finish_reason"]
        )
        for first, second in combinations(samples, 2)
        for row, other in zip(samples[first], samples[second], strict=True)
        if row["prompt_id"] in prompts
    ]


def games_of(records: list[Row], prompts: frozenset[str], names: set[str]) -> list[Row]:
    """The records that are games: between two of `names`, the SFT policy and the chosen answers, on these prompts."""
    players = names | {SFT, CHOSEN}
    return [
        record
        for record in records
        if record["prompt_id"] in prompts
        and record["answer"] != record["opponent"]
        and {record["answer"], record["opponent"]} <= players
    ]


def table(games: list[Row], field: str, confidence: float, seed: int) -> list[Row]:
    """The players from the strongest to the weakest by `field` (`win` or `true_win`), rows for a CSV file.

    `place_first` to `place_last` are the places that the data leave open, `group` tells apart what they separate
    (places.py): the order of the rows of one group says nothing.
    `strength` is Bradley-Terry's theta in logits, mean 0; `elo` the same on Elo's scale; `win_rate` what is expected
    against the others, each as often. All with the ends of their intervals over prompts. `identical_share`: of the
    policy's games against other runs than itself, those of two equal texts; absent where it met none.
    """
    found = ranking(
        [game["answer"] for game in games],
        [game["opponent"] for game in games],
        [game[field] for game in games],
        [game["prompt_id"] for game in games],
        confidence,
        DRAWS,
        seed,
    )
    return [
        {"policy": one.name, "n": one.strength.n}
        | {"place_first": one.place.first, "place_last": one.place.last, "group": one.place.group}
        | one.strength.columns("strength")
        | one.elo.columns("elo")
        | one.win_rate.columns("win_rate")
        | _identical(one.name, games)
        for one in found
    ]


def _identical(policy: str, games: list[Row]) -> Row:
    met = [
        game["identical"]
        for game in games
        if policy in (players := {game["answer"], game["opponent"]}) and players - {policy, SFT, CHOSEN}
    ]
    return {"identical_share": sum(met) / len(met)} if met else {}


def metrics(tables: dict[str, list[Row]]) -> dict[str, float]:
    """Strengths with intervals and places of every policy, by name: by the truth they begin with `true_`."""
    names = ("strength", "strength_low", "strength_high", "place_first", "place_last")
    return {
        f"{field.removesuffix('win')}{name}/{row['policy']}": row[name]
        for field, rows in tables.items()
        for row in rows
        for name in names
    }
