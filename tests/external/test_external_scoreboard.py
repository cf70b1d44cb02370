"""The page and the table from metrics as the stage verdicts writes them."""

import csv
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.external.benchmarks.params import Run, ScoreboardView
from epsilon_dpo.external.benchmarks.questions import Question
from epsilon_dpo.external.scoreboard.scoreboard import read_verdicts, write_scoreboard
from epsilon_dpo.external.verdicts.judge_mt_bench import UNREADABLE, score
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import write_json
from epsilon_dpo.pipeline.stage.params import parse

FACTS = {"mean_tokens": 200.0, "truncated_share": 0.25, "policy_sha256": "0" * 64, "n_missing": 5}
ALPACA_EVAL: dict[str, Any] = {"tool": "alpaca-eval 0.6.6", "judge": "gpt-4-1106-preview", "n": 800, **FACTS}
ALPACA_EVAL |= {"n_asked": 805}
ALPACA_EVAL |= {"win_rate": 31.25, "win_rate_se": 1.5, "mean_characters": 900.0}
MT_BENCH: dict[str, Any] = {
    "tool": "fschat 0.2.36",
    "judge": "gpt-4",
    "n": 75,
    "n_asked": 80,
    **FACTS,
    "score": 6.5,
    "score/turn_1": 7.0,
}


def page(tmp_path: Path, **verdicts: dict[str, Any]) -> str:
    """One run per benchmark, in the order given."""
    for name, metrics in verdicts.items():
        (tmp_path / "verdicts" / name).mkdir(parents=True)
        write_json(tmp_path / "verdicts" / name / "metrics.json", metrics)
    runs = {name: Run.model_validate({"policy": "align/dpo", "benchmark": name}) for name in verdicts}
    write_scoreboard(read_verdicts(tmp_path / "verdicts", runs), tmp_path)
    return (tmp_path / "scoreboard.html").read_text("utf-8")


def test_scores_with_their_errors_and_without_what_is_missing(tmp_path: Path) -> None:
    text = page(tmp_path, mt_bench=MT_BENCH, alpaca_eval=ALPACA_EVAL)
    assert text.index("AlpacaEval 2") < text.index("MT-Bench") and "Arena-Hard" not in text
    cells = [line.strip() for line in text.splitlines() if line.strip().startswith("<td>")]
    assert {"<td>31.25 ± 1.50</td>", "<td>–</td>", "<td>6.50</td>", "<td>7.00</td>"} <= set(cells)
    assert "<td>200.00</td><td>25.0 %</td>" in cells
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["run"]: row["value"] for row in rows if row["score"] in ("win_rate", "score")} == {
        "alpaca_eval": "31.25",
        "mt_bench": "6.5",
    }
    assert {row["score"] for row in rows} == {key for key in ALPACA_EVAL | MT_BENCH if key not in NOT_METRICS}


NOT_METRICS = {"tool", "judge", "policy_sha256"}


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({}, []),
        ({"judge": "local"}, ["their judge is gpt-4-1106-preview"]),
        ({"n_asked": 10, "judge": "local"}, ["their judge is gpt-4-1106-preview", "they are on 805 questions"]),
    ],
)
def test_what_cannot_be_compared_with_published_numbers_says_so(
    tmp_path: Path, changes: dict[str, Any], reasons: list[str]
) -> None:
    text = page(tmp_path, alpaca_eval=ALPACA_EVAL | changes)
    assert ("Not comparable with published numbers" in text) is bool(reasons)
    assert all(reason in text for reason in ["alpaca-eval 0.6.6", *reasons])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"judge": "local"}, "their judge is gpt-4-1106-preview"), ({"n_asked": 10}, "they are on 805 questions")],
)
def test_one_run_that_cannot_be_compared_is_enough(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    runs = [{"run": name, "policy": "sft", "benchmark": "alpaca_eval", **ALPACA_EVAL} for name in ("one", "two")]
    for verdicts in ([runs[0], runs[1] | changes], [runs[0] | changes, runs[1]]):
        write_scoreboard(verdicts, tmp_path)
        assert reason in (tmp_path / "scoreboard.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("asked", "without", "comparable"),
    [
        (80, {(1, 2), (2, 2), (3, 2)}, True),  # every question has a grade, and three turns have none
        (78, {(1, 1), (1, 2), (2, 2), (3, 2)}, False),  # 77 questions and 4 turns, of too few questions
        (78, {(1, 2), (2, 2)}, False),  # 78 and 2 are 80, and of no one thing
    ],
)
def test_turns_without_a_grade_are_no_questions(
    tmp_path: Path, asked: int, without: set[tuple[int, int]], comparable: bool
) -> None:
    questions = [Question(str(id_), ["a", "b"], {"question_id": id_, "category": "math"}) for id_ in range(asked)]
    rows = [
        {"question_id": id_, "turn": turn, "score": UNREADABLE if (id_, turn) in without else 6}
        for id_ in range(asked)
        for turn in (1, 2)
    ]
    text = page(tmp_path, mt_bench=MT_BENCH | score(rows, questions))
    assert ("they are on 80 questions" not in text) is comparable
    assert "<th>turns without verdict</th>" in text and f"<td>{len(without)}</td>" in text


def test_a_page_shows_its_own_runs_in_its_order() -> None:
    runs = {name: {"policy": "align/dpo", "benchmark": "mt_bench"} for name in ("one", "two", "three")}
    view = parse(ScoreboardView, {"runs": runs, "scoreboard": {"all": {"runs": ["three", "one"]}}})
    assert list(view.on_page("all")) == ["three", "one"]
    with pytest.raises(UserError, match=r"all.runs names four, not a line under runs \(known: one, two, three\)"):
        parse(ScoreboardView, {"runs": runs, "scoreboard": {"all": {"runs": ["four"]}}})
