"""The tools themselves, against a judge on this machine: files in, verdicts and scores out.

EPSILON_DPO_EXTERNAL_ENVIRONMENTS names the folder with their environments, as external/make_environment.sh makes them.
"""

import json
import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import rows_of
from benchmark_server import KEY, Judge, goodness, label
from test_external_judges import export, judges
from test_external_kept_verdicts import full_disk

from epsilon_dpo.external.verdicts.judging import verdict_on
from epsilon_dpo.pipeline.observability.errors import UserError

pytestmark = pytest.mark.slow
FOLDER = "EPSILON_DPO_EXTERNAL_ENVIRONMENTS"
ENVIRONMENTS = Path(os.environ.get(FOLDER, "/nonexistent")).absolute()


@pytest.fixture
def real(external: Path) -> Callable[[str], Path]:
    """Put the environment of a tool where external/params.yaml looks for it; its folder."""

    def use(benchmark: str) -> Path:
        folder = ENVIRONMENTS / benchmark
        if not (folder / "bin" / "python").exists():
            pytest.skip(f"{FOLDER} names no folder with {benchmark}; external/make_environment.sh makes it")
        Path("environments").mkdir()
        Path("environments", benchmark).symlink_to(folder)
        return folder

    return use


def chance(mine: str, reference: str) -> float:
    return 1 / (1 + math.exp(goodness(reference) - goodness(mine)))


def test_alpaca_eval(real: Any, judge: Judge, dialogues: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each preference is the judge's probability whatever the order shown; an unreadable verdict is asked for again."""
    packages = next((real("alpaca_eval") / "lib").glob("python*/site-packages/alpaca_eval"))
    before = sorted(packages.rglob("*.json")) + sorted(packages.rglob("*.csv"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = Path("data/alpaca_eval/alpaca_eval_gpt4_baseline.json")
    references = json.loads(path.read_text())
    references[4]["output"] = "unjudgeable"
    path.write_text(json.dumps(references))
    run, file = export(dialogues, "alpaca_eval")
    verdict = verdict_on("mine", run, judges(judge.url), file)
    outputs = rows_of(file)
    assert [row["instruction"] for row in verdict.rows] == [row["instruction"] for row in references]
    for place, row in enumerate(verdict.rows):
        if place == 4:
            assert row["preference"] is None
        else:
            expected = 1 + chance(outputs[place]["output"], references[place]["output"])
            assert row["preference"] == pytest.approx(expected), place
    read = [row["preference"] - 1 for row in verdict.rows if row["preference"] is not None]
    assert verdict.metrics["win_rate"] == pytest.approx(100 * sum(read) / 9)
    assert (verdict.metrics["n"], verdict.metrics["n_missing"]) == (9, 1)
    assert 0 < verdict.metrics["lc_win_rate"] < 100 and verdict.metrics["lc_win_rate_se"] > 0
    assert verdict.metrics["mean_characters"] == int(sum(len(row["output"]) for row in outputs) / 10)
    assert verdict.tool == "alpaca-eval 0.6.6"
    asked = {"model": "gpt-4-1106-preview", "max_tokens": 1, "logprobs": True, "top_logprobs": 5, "temperature": 1.0}
    assert all(request.items() >= asked.items() for request in judge.asked)
    shown_first = [request["messages"][-1]["content"].split('"M"')[0] for request in judge.asked]
    assert 0 < sum("answer-" in text for text in shown_first) < 10  # both orders
    assert len(judge.asked) == 10
    again = verdict_on("mine", run, judges(judge.url), file)
    assert len(judge.asked) == 11 and again.metrics == pytest.approx(verdict.metrics)  # the tool's cache has 10 digits
    assert sorted(packages.rglob("*.json")) + sorted(packages.rglob("*.csv")) == before
    assert KEY not in "".join(path.read_text() for path in Path("verdicts").rglob("*") if path.is_file())


def test_alpaca_eval_without_length_control_and_with_another_judge(real: Any, judge: Judge, dialogues: Any) -> None:
    real("alpaca_eval")
    Path("data/alpaca_eval/df_gamed.csv").unlink()
    run, file = export(dialogues, "alpaca_eval")
    verdict = verdict_on(
        "mine", run, judges(judge.url, "alpaca_eval", model="local-instruct", length_controlled=False), file
    )
    assert "lc_win_rate" not in verdict.metrics and verdict.metrics["n"] == 10
    assert {request["model"] for request in judge.asked} == {"local-instruct"}


def test_a_question_that_the_endpoint_refuses_costs_alpaca_eval_its_own_verdict(
    real: Any, judge: Judge, dialogues: Any
) -> None:
    """The tool itself ends at the first, and loses what it asked beside it."""
    real("alpaca_eval")
    references = json.loads(Path("data/alpaca_eval/alpaca_eval_gpt4_baseline.json").read_text())
    run, file = export(dialogues, "alpaca_eval")
    judge.broken = references[2]["instruction"]
    with pytest.raises(UserError, match=r"the judge failed on 1 of 10 questions.*judge\.alpaca_eval\.most_failed = 1"):
        verdict_on("mine", run, judges(judge.url), file)
    assert len(judge.asked) == 10
    verdict = verdict_on("mine", run, judges(judge.url, "alpaca_eval", most_failed=1), file)
    assert len(judge.asked) == 11 and verdict.rows[2]["preference"] is None
    assert (verdict.metrics["n"], verdict.metrics["n_missing"]) == (9, 1)
    judge.broken = None
    assert verdict_on("mine", run, judges(judge.url), file).metrics["n"] == 10 and len(judge.asked) == 12


def test_alpaca_eval_on_texts_that_are_numbers(real: Any, judge: Judge, dialogues: Any) -> None:
    """The judge sees 000 and not 0, and the tool, which needs texts when all is paid for, does not fail."""
    real("alpaca_eval")
    path = Path("data/alpaca_eval/alpaca_eval_gpt4_baseline.json")
    references = [row | {"instruction": f"0{place}"} for place, row in enumerate(json.loads(path.read_text()))]
    path.write_text(json.dumps(references))
    run, file = export(dialogues, "alpaca_eval")
    file.write_text(json.dumps([row | {"output": f"00{place}"} for place, row in enumerate(rows_of(file))]))
    verdict = verdict_on("mine", run, judges(judge.url, "alpaca_eval", length_controlled=False), file)
    assert [row["instruction"] for row in verdict.rows] == [row["instruction"] for row in references]
    assert verdict.metrics["n"] == 10 and verdict.metrics["mean_characters"] == 3
    shown = json.dumps(judge.asked)
    assert all(json.dumps(f'"""00{place}"""')[1:-1] in shown for place in range(10))


def test_a_disk_that_is_full_costs_no_verdict_of_alpaca_eval(real: Any, judge: Judge, dialogues: Any) -> None:
    """While the unreadable verdict is taken out of the tool's cache, and while the tool writes the new one into it."""
    real("alpaca_eval")
    path = Path("data/alpaca_eval/alpaca_eval_gpt4_baseline.json")
    path.write_text(path.read_text().replace('"output": "w1"', '"output": "unjudgeable"', 1))
    run, file = export(dialogues, "alpaca_eval")
    asked = judges(judge.url, "alpaca_eval", length_controlled=False)
    verdict_on("mine", run, asked, file)
    (cache,) = Path("verdicts").rglob("annotations_cache.json")
    whole = json.loads(cache.read_text())
    tidied = len(json.dumps(whole))
    assert len(whole) == 10 and tidied + 200 < cache.stat().st_size
    for size, kept in ((tidied // 2, whole), (tidied + 100, whole[1:])):
        with full_disk(size), pytest.raises(UserError, match=r"the tool ended with code 1; .* File too large"):
            verdict_on("mine", run, asked, file)
        assert json.loads(cache.read_text()) == kept
    cache.write_text(cache.read_text()[:-20])
    with pytest.raises(
        UserError, match=r"annotations_cache.json is damaged and no JSON .*; repair it by hand, or delete"
    ):
        verdict_on("mine", run, asked, file)


def test_mt_bench(real: Any, judge: Judge, dialogues: Any) -> None:
    """Grades of both turns, the reference shown where it belongs, and the same means as FastChat's own show_result."""
    folder = real("mt_bench")
    run, file = export(dialogues, "mt_bench")
    verdict = verdict_on("mine", run, judges(judge.url), file)
    grades = {(row["question_id"], row["turn"]): row["score"] for row in verdict.rows}
    assert grades == {(81, 1): 1, (81, 2): 2, (111, 1): 3, (111, 2): 4, (141, 1): 1, (141, 2): 2}
    assert list(grades) == sorted(grades) and len(judge.asked) == 6
    with_reference = [request for request in judge.asked if "the reference of turn 1" in str(request)]
    assert len(with_reference) == 2 and all("w12 w2" in str(request) for request in with_reference)
    assert verdict.metrics["score"] == pytest.approx(13 / 6) and verdict.metrics["score/turn_2"] == pytest.approx(8 / 3)
    assert verdict.tool == "fschat 0.2.36"
    (work,) = Path("verdicts").glob("mine-*")
    command = [folder / "bin" / "python", "-m", "fastchat.llm_judge.show_result", "--model-list", "mine"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=work, check=True).stdout
    means = [float(line.split()[-1]) for line in shown.splitlines() if line.startswith("mine")]
    assert means == pytest.approx([verdict.metrics[name] for name in ("score/turn_1", "score/turn_2", "score")])


def test_mt_bench_asks_again_only_for_what_failed(real: Any, judge: Judge, dialogues: Any) -> None:
    real("mt_bench")
    run, file = export(dialogues, "mt_bench")
    asked = judges(judge.url)
    verdict_on("mine", run, asked, file)
    (kept,) = Path("verdicts").rglob("gpt-4_single.jsonl")
    rows = rows_of(kept)
    lost = next(row for row in rows if (row["question_id"], row["turn"]) == (111, 2))
    lost |= {"judgment": "$ERROR$", "score": -1}
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert verdict_on("mine", run, asked, file).metrics["n_missing"] == 0
    assert len(judge.asked) == 6 + 2  # both turns of the one question


def test_arena_hard(real: Any, judge: Judge, dialogues: Any) -> None:
    """Two games a question, the labels where the score expects them; a verdict without a label is left out."""
    real("arena_hard")
    path = Path("data/arena_hard/question.jsonl")
    path.write_text(path.read_text().replace("w9 w24", "unjudgeable"))
    run, file = export(dialogues, "arena_hard")
    verdict = verdict_on("mine", run, judges(judge.url), file)
    assert len(judge.asked) == 12 and (verdict.metrics["n"], verdict.metrics["n_missing"]) == (5, 1)
    asked = {"model": "gpt-4-1106-preview", "temperature": 0.0, "max_tokens": 4096}
    assert all(request.items() >= asked.items() for request in judge.asked)
    mine, baseline = ["", "good", "good good", "good good good"], ["w1", "good w1"]
    for place, row in enumerate(verdict.rows):
        a, b = mine[place % 4], baseline[place % 2]
        labels = [None, None] if place == 4 else [label(b, a), label(a, b)]
        assert [game["score"] for game in row["games"]] == labels
    assert verdict.tool.startswith("arena-hard-auto ")


def test_a_tool_that_fails_says_why(real: Any, judge: Judge, dialogues: Any) -> None:
    real("mt_bench")
    run, file = export(dialogues, "mt_bench")
    Path("data/mt_bench/reference_answer/gpt-4.jsonl").write_text("")
    with pytest.raises(UserError, match=r"ended with code 1; .* its last line is: AssertionError: Missing reference"):
        verdict_on("mine", run, judges(judge.url), file)
