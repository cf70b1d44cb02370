"""The stages that ask a judge on files, with a judge in its place: what each hands on, writes and says."""

import inspect
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from untracked import Untracked, run_untracked

from epsilon_dpo.data.prompts.prompt_ids import prompt_id
from epsilon_dpo.judging.judges.interface import Question, Verdict
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_json, write_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import stage_entry
from epsilon_dpo.report.page.results import read_results

ROOT = Path(__file__).resolve().parents[2]
PARAMS = """
seed: 3
threads: 2
confidence: 0.8
base: {source: embedded}
candidates:
  samples_per_prompt: 2
  temperature: 1.0
  logits: {top_p: 1.0, top_k: null, min_p: null, repetition_penalty: 1.0}
  stop: {tokens: [], strings: []}
  max_new_tokens: 16
  batch_size: 5
  backend: transformers
  max_prompts: MAX
margins: {source: judge, temperature: null}
scorer: {source: true_reward}
tournament: {max_prompts: 3}
report: {examples: 1}
runs: {a: {method: dpo}, b: {method: dpo}}
"""
FACT = "The Moon orbits the Earth."


class Judge:
    """The longer answer is better by a nat per character; of three candidates it does not compare the second."""

    def compare(self, questions: list[Question]) -> list[Verdict]:
        apart = [float(len(question.a) - len(question.b)) for question in questions]
        return [Verdict(margin, -margin, 1, 1) for margin in apart]

    def rank(self, prompts: list[Any], candidates: list[list[str]]) -> list[list[float]]:
        assert len(prompts) == len(candidates)
        return [[2.0, float("nan"), -2.0] if len(texts) == 3 else [float("nan")] * len(texts) for texts in candidates]

    def usage(self) -> dict[str, float]:
        return {"judge/usd": 0.25}


class Recorder(Untracked):
    """In the place of the MLflow run: every number that it gets."""

    logged: dict[str, float]

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        Recorder.logged = metrics

    def mark_compared(self, policies: list[dict[str, Any]]) -> None: ...


set_up: list[tuple[int, int]] = []  # seed and threads of each stage


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's code in a folder of its own."""
    for name in ("src", "stages", "dvc.yaml", "pins.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "params.yaml").write_text(PARAMS.replace("MAX", "null"), "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    run_untracked(monkeypatch, Recorder)
    set_up.clear()
    monkeypatch.setattr(
        "epsilon_dpo.pipeline.stage.runtime.set_up", lambda seed, threads: set_up.append((seed, threads))
    )
    monkeypatch.setattr("epsilon_dpo.judging.judges.loading.load_judge", lambda folder, journal: Judge())
    return tmp_path


def run(stage: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """`python -m stages.<stage> <arguments>` in this process; what it depends on and nobody wrote is there, empty."""
    for dependency in map(Path, stage_entry(stage, *(arguments or (None,)))["deps"]):
        if dependency.suffix and not dependency.exists():
            dependency.parent.mkdir(parents=True, exist_ok=True)
            dependency.touch()
        elif not dependency.exists():
            dependency.mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", [f"stages.{stage}", *arguments])
    runpy.run_module(f"stages.{stage}", run_name="__main__")


def prompt(number: int) -> list[dict[str, str]]:
    """Another one for each number, with a question that data of known reward have."""
    said = [("user", f"Hello, I am number {number}."), ("assistant", "Hello!"), ("user", "Tell me about the Moon.")]
    return [{"role": role, "content": content} for role, content in said]


def write_answers(folder: Path, responses: list[str]) -> None:
    """As stage sample or reference does, each to a prompt of its own."""
    folder.mkdir(parents=True)
    rows = [
        {"id": f"{n}/0", "row_id": f"{n}", "prompt_id": prompt_id(prompt(n)), "prompt": prompt(n), "chosen": "xx"}
        | {"response": response, "finish_reason": "stop"}
        for n, response in enumerate(responses)
    ]
    write_jsonl(folder / "samples.jsonl", rows)
    write_json(folder / "metrics.json", {"policy_sha256": folder.name})


def test_the_line_of_a_score_is_that_of_its_metrics(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of four answers all are longer than the chosen ones, and one is longer than the reference's."""
    (project / "out/validate").mkdir(parents=True)
    write_json(project / "out/validate/dataset.json", {"true_reward": False})
    write_answers(project / "out/sample/a", ["xxx"] * 4)
    write_answers(project / "out/reference", ["x", "xxxx", "xxxx", "xxxx"])
    run("score", monkeypatch, "a")
    assert set_up == [(3, 2)], "seed and threads, on both of which a result depends"
    metrics = read_json(project / "out/score/a/metrics.json")
    assert metrics["confidence"] == 0.8 and metrics["policy_sha256"] == "a"
    low, high = (metrics[f"win_rate/sft_{end}"] for end in ("low", "high"))
    assert low < 0.25 < high < 1.0
    assert capsys.readouterr().out.endswith(f"beats chosen in 100.0%, SFT in 25.0% ({low:.1%} to {high:.1%}) of 4\n")


def test_the_line_of_the_controls_counts_answers_for_the_rate_that_is_of_answers(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two answers to each of two prompts; the judge finds the longer text better, so one of two labels, and three of
    the four answers better than the chosen one."""
    write_answers(project / "out/reference", ["xxx", "xxx"])
    rows = read_jsonl(project / "out/reference/samples.jsonl")
    again = [row | {"id": f"{row['row_id']}/1", "response": text} for row, text in zip(rows, ("xxx", "x"), strict=True)]
    write_jsonl(project / "out/reference/samples.jsonl", [*rows, *again])
    (project / "out/validate").mkdir(parents=True)
    write_json(project / "out/validate/dataset.json", {"true_reward": False})
    pairs = [
        {"id": f"{n}", "rejected": [{"role": "assistant", "content": text}]} for n, text in enumerate(("x", "xxx"))
    ]
    write_jsonl(project / "out/validate/eval.jsonl", pairs)
    run("controls", monkeypatch)
    assert capsys.readouterr().out.endswith("chosen beats rejected in 50.0%; SFT beats chosen in 75.0% of 4 answers\n")


def test_a_tournament_says_who_leads_by_whom(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The judge likes long answers, and a's short ones are true; three of the four prompts are played on."""
    (project / "out/validate").mkdir(parents=True)
    write_json(project / "out/validate/dataset.json", {"true_reward": True})
    for folder, response in (("sample/a", FACT), ("sample/b", "x" * 40), ("reference", "")):
        write_answers(project / "out" / folder, [response] * 4)
    for folder in ("score/a", "score/b", "controls"):  # no game with the reference or the chosen answers
        (project / "out" / folder).mkdir(parents=True)
        write_jsonl(project / "out" / folder / "records.jsonl", [])
    run("tournament", monkeypatch)
    assert set_up == [(3, 2)]
    tables = read_json(project / "out/tournament/ranking.json")
    assert {field: [row["policy"] for row in rows] for field, rows in tables.items()} == {
        "true_win": ["a", "b"],
        "win": ["b", "a"],
    }
    said = capsys.readouterr().out.rpartition(" s   ")[2].replace(">", "~")
    assert said == "by the true reward a ~ b, by the judge b ~ a on 3 prompts (~: not told apart)\n"
    assert Recorder.logged["strength/b"] > 0.0 > Recorder.logged["true_strength/b"]
    assert Recorder.logged["judge/usd"] == 0.25


@pytest.mark.parametrize("limit", [None, 2])
def test_a_prompt_of_several_pairs_is_answered_once(
    project: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    """Five training pairs of three prompts; with a limit those prompts whose ids come first."""
    prompts = [prompt(number) for number in (0, 1, 0, 2, 1)]
    rows = [{"id": f"train/{number}", "prompt": content} for number, content in enumerate(prompts)]
    (project / "out/validate").mkdir(parents=True)
    write_jsonl(project / "out/validate/train.jsonl", rows)
    (project / "params.yaml").write_text(PARAMS.replace("MAX", "null" if limit is None else str(limit)), "utf-8")
    monkeypatch.setattr(
        "epsilon_dpo.sampling.answers.sampling.answer",
        lambda reference, rows, *_, **__: [{"row_id": row["id"]} for row in rows],
    )
    run("candidates", monkeypatch)
    kept = sorted(prompt_id(prompt(number)) for number in range(3))[:limit]
    first = [f"train/{row}" for row, number in ((0, 0), (1, 1), (3, 2)) if prompt_id(prompt(number)) in kept]
    assert [row["row_id"] for row in read_jsonl(project / "out/candidates/samples.jsonl")] == first
    assert len(first) == (limit or 3)


def test_candidates_that_the_judge_refused_have_no_score_and_are_counted(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [(0, "A", "stop"), (0, "B", "stop"), (0, "C", "stop"), (0, "A", "stop"), (0, "D", "length")]
    answers += [(1, "A", "stop"), (1, "B", "stop"), (2, "A", "stop")]
    rows = [
        {"row_id": f"train/{n}", "prompt": prompt(n), "response": response, "finish_reason": reason}
        for n, response, reason in answers
    ]
    (project / "out/candidates").mkdir(parents=True)
    write_jsonl(project / "out/candidates/samples.jsonl", rows)
    run("ranking", monkeypatch)
    assert set_up == [(0, 2)]
    assert [(row["answers"], row["scores"]) for row in read_jsonl(project / "out/ranking/ranked.jsonl")] == [
        (["A", "B", "C"], [2.0, None, -2.0]),
        (["A", "B"], [None, None]),
    ]
    left_out = {
        "left_out/empty": 0.0,
        "left_out/cut": 1.0,
        "left_out/repeated": 1.0,
        "left_out/prompts_without_two": 1.0,
    }
    assert Recorder.logged == left_out | {"refused_answers": 3.0, "judge/usd": 0.25}
    assert read_json(project / "out/ranking_usage/usage.json") == {"judge/usd": 0.25}
    said = "5 different answers to 2 prompts; left out: 1 answers cut at max_new_tokens, 1 repeated answers, 1 prompts "
    assert capsys.readouterr().out.endswith(f"{said}without two such answers\n")


def test_the_report_tells_who_scored_from_who_gave_the_margins(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    def read(*given: Any, **named: Any) -> SimpleNamespace:
        asked.update(inspect.signature(read_results).bind(*given, **named).arguments)
        return SimpleNamespace(runs=["a", "b"], prompts=7)

    page = "epsilon_dpo.report.page"
    monkeypatch.setattr(f"{page}.results.read_results", read)
    for name in ("certificates.read_certificates", "replication.read_replication", "tracked.compared_policies"):
        monkeypatch.setattr(f"{page}.{name}", lambda *_: [])
    monkeypatch.setattr(f"{page}.page.write_report", lambda *_: None)
    run("report", monkeypatch)
    assert (asked["scorer"], asked["margins"], asked["base"]) == ("true_reward", "judge", "the embedded model")
    assert list(asked["runs"]) == ["a", "b"]
    assert "2 runs compared on 7 prompts" in capsys.readouterr().out
