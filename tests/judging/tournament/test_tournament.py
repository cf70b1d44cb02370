"""All against all: who is compared with whom, and the scale that follows."""

from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.data.prompts.prompt_ids import prompt_id
from epsilon_dpo.judging.judges.interface import Question, Verdict
from epsilon_dpo.judging.scoring.intervals import Intervals
from epsilon_dpo.judging.scoring.scoring import judge_comparisons
from epsilon_dpo.judging.tournament.tournament import (
    first_prompts,
    games_of,
    metrics,
    play,
    run_against_run,
    table,
)
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_jsonl


class LengthJudge:
    """The longer answer is better by a nat per character."""

    def compare(self, questions: list[Question]) -> list[Verdict]:
        margins = [len(question.a) - len(question.b) for question in questions]
        return [Verdict(float(margin), -float(margin), 1, 1) for margin in margins]


class Paid(LengthJudge):
    """The same, which counts what it is asked."""

    asked = 0

    def compare(self, questions: list[Question]) -> list[Verdict]:
        self.asked += len(questions)
        return super().compare(questions)

    def usage(self) -> dict[str, float]:
        return {"judge_questions": float(self.asked)}


def samples(lengths: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{n}/0",
            "prompt_id": f"p{n:03d}",
            "prompt": [{"role": "user", "content": str(n)}],
            "response": "x" * size,
        }
        | {"finish_reason": "stop"}
        for n, size in enumerate(lengths)
    ]


RUNS = {"a": samples([3, 3, 3, 3]), "b": samples([1, 1, 1, 5]), "c": samples([2, 2, 2, 2])}


def test_every_two_runs_meet_once_on_each_prompt() -> None:
    comparisons = run_against_run(RUNS, first_prompts(RUNS["a"], None))
    assert [(x.answer, x.opponent) for x in comparisons] == [("a", "b")] * 4 + [("a", "c")] * 4 + [("b", "c")] * 4
    assert comparisons[3].question[1:] == ("xxx", "xxxxx")
    few = first_prompts(RUNS["a"], 2)
    assert few == {"p000", "p001"} and len(run_against_run(RUNS, few)) == 6


def test_the_scale_orders_the_players_by_their_games() -> None:
    prompts = first_prompts(RUNS["a"], None)
    records = judge_comparisons(LengthJudge(), run_against_run(RUNS, prompts), None)  # type: ignore[arg-type]
    # The records carry the ids of their prompts' messages; here the rows' own stand for them.
    records = [record | {"prompt_id": f"p{record['id'][0]:0>3}"} for record in records]
    games = games_of(records, prompts, set(RUNS))
    rows = table(games, "win", 0.95, 17)
    assert [row["policy"] for row in rows] == ["a", "c", "b"]
    places = [(row["place_first"], row["place_last"], row["group"]) for row in rows]
    assert places == [(1, 3, 1)] * 3, "four prompts separate nobody"
    assert sum(row["strength"] for row in rows) == pytest.approx(0.0, abs=1e-9)
    assert all(row["strength_low"] <= row["strength"] <= row["strength_high"] for row in rows)
    for end in ("", "_low", "_high"):
        assert rows[0][f"elo{end}"] == pytest.approx(rows[0][f"strength{end}"] * 173.7178, rel=1e-5)
    assert rows[0]["n"] == 4


def test_judge_and_truth_rank_apart_and_what_judging_cost_is_written_beside(tmp_path: Path) -> None:
    """The longer answer is better by the judge, the shorter one by the truth: of 8 games each a, b and c win 7, 2 and 3
    by the one, and 1, 6 and 5 by the other."""
    outputs(tmp_path, {name: [] for name in RUNS}, [])
    tables, prompts = play(
        Paid(),  # type: ignore[arg-type]
        lambda _, answer: -float(len(answer)),
        list(RUNS),
        tmp_path,
        None,
        Intervals(0.95, 17),
        tmp_path / "out",
    )
    order = {field: [row["policy"] for row in rows] for field, rows in tables.items()}
    assert prompts == 4 and order == {"win": ["a", "c", "b"], "true_win": ["b", "c", "a"]}
    assert read_json(tmp_path / "out/ranking.json") == tables
    assert read_json(tmp_path / "out/usage.json") == {"judge_questions": 12.0}


def test_the_games_of_all_stages_count_on_the_first_prompts_alone(tmp_path: Path) -> None:
    """Two runs on two of four prompts: of each prompt the one game that is judged here, each run's against SFT and the
    chosen answer from stage score, and SFT's against the chosen answer from stage controls."""

    def game(answer: str, opponent: str, prompt: str, win: float) -> dict[str, Any]:
        return {"answer": answer, "opponent": opponent, "prompt_id": prompt, "win": win, "identical": False}

    prompts = [prompt_id(row["prompt"]) for row in RUNS["a"]]
    scored = {
        name: [game("run", opponent, prompt, win) for opponent, win in against.items() for prompt in prompts]
        for name, against in (("a", {"sft": 1.0, "chosen": 0.5}), ("b", {"sft": 0.0, "chosen": 1.0}))
    }
    controls = (("sft", "chosen"), ("chosen", "rejected"))
    outputs(tmp_path, scored, [game(one, other, prompt, 1.0) for one, other in controls for prompt in prompts])
    judge, intervals = Paid(), Intervals(0.95, 17)
    tables, played = play(judge, None, list(scored), tmp_path, 2, intervals, tmp_path / "out")  # type: ignore[arg-type]
    assert played == judge.asked == len(read_jsonl(tmp_path / "out/records.jsonl")) == 2
    games = [
        game(one, other, prompt, win)
        for prompt in sorted(prompts)[:2]
        for one, other, win in (
            ("a", "b", float(prompt != prompts[3])), ("a", "sft", 1.0), ("a", "chosen", 0.5), ("b", "sft", 0.0),
            ("b", "chosen", 1.0), ("sft", "chosen", 1.0),
        )
    ]  # fmt: skip
    assert tables == {"win": table(games, "win", 0.95, 17)}
    assert {row["policy"] for row in tables["win"]} == {"a", "b", "sft", "chosen"}


def test_how_often_a_run_says_what_another_says() -> None:
    """All runs draw with the same random numbers: such games are ties that independent answers would not be."""

    def game(answer: str, opponent: str, *identical: bool) -> list[dict[str, Any]]:
        pair = {"answer": answer, "opponent": opponent, "win": 0.5}
        return [pair | {"prompt_id": f"p{n}", "identical": same} for n, same in enumerate(identical)]

    games = game("a", "b", True, False) + game("a", "c", True, True) + game("b", "c", False, False)
    games += [one for run in "abc" for one in game(run, "sft", run == "a", False) + game(run, "chosen", True, True)]
    rows = table(games + game("sft", "chosen", True, True), "win", 0.95, 17)
    found = {row["policy"]: row["identical_share"] for row in rows}
    assert found == {"a": 0.75, "b": 0.25, "c": 0.5, "sft": pytest.approx(1 / 6), "chosen": 1.0}
    alone = table(game("a", "sft", True, False) + game("sft", "chosen", False, False), "win", 0.95, 17)
    assert "identical_share" not in {row["policy"]: row for row in alone}["a"], "it met no other run"


def outputs(folder: Path, scored: dict[str, list[dict[str, Any]]], controls: list[dict[str, Any]]) -> None:
    """What the stages before it have written of these runs, by their records of stage score."""
    for place in (
        "reference",
        "controls",
        "out",
        *(f"{stage}/{run}" for stage in ("sample", "score") for run in scored),
    ):
        (folder / place).mkdir(parents=True)
    rows = {run: [row | {"prompt_id": prompt_id(row["prompt"])} for row in RUNS[run]] for run in scored}
    write_jsonl(folder / "reference/samples.jsonl", rows["a"])
    write_jsonl(folder / "controls/records.jsonl", controls)
    for run, records in scored.items():
        write_jsonl(folder / f"sample/{run}/samples.jsonl", rows[run])
        write_jsonl(folder / f"score/{run}/records.jsonl", records)


def test_only_games_between_players_count() -> None:
    def record(answer: str, opponent: str, prompt: str = "p") -> dict[str, Any]:
        return {"answer": answer, "opponent": opponent, "prompt_id": prompt}

    own = [record("a", "chosen"), record("a", "sft")]
    controls = [
        record("sft", "chosen"),
        record("chosen", "chosen"),
        record("chosen", "rejected"),
        record("shuffled", "chosen"),
    ]
    games = games_of([*own, *controls, record("a", "b"), record("a", "b", "other")], frozenset({"p"}), {"a", "b"})
    assert games == [record("a", "chosen"), record("a", "sft"), record("sft", "chosen"), record("a", "b")]


def test_metrics_name_the_truths_apart() -> None:
    row = {"policy": "a", "strength": 0.5, "strength_low": 0.1, "strength_high": 0.9, "place_first": 1, "place_last": 3}
    names = ("strength", "strength_low", "strength_high", "place_first", "place_last")
    judged = {f"{name}/a": row[name] for name in names}
    assert metrics({"win": [row]}) == judged
    assert metrics({"win": [row], "true_win": [row]}) == judged | {f"true_{name}": x for name, x in judged.items()}
