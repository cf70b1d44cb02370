"""A run's policies and the controls, judged on files: what is where, and what stages score and controls return."""

from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.data.prompts.prompt_ids import prompt_id
from epsilon_dpo.judging.judges.interface import Question, Verdict
from epsilon_dpo.judging.scoring.intervals import Intervals
from epsilon_dpo.judging.scoring.score_answers import score_controls, score_run
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_json, write_jsonl

INTERVALS = Intervals(0.9, 17)
SNAPSHOT = "snapshots/000002"


class CountingJudge:
    """The longer answer is better; counts what it is asked."""

    asked = 0

    def compare(self, questions: list[Question]) -> list[Verdict]:
        self.asked += len(questions)
        margins = [float(len(question.a) - len(question.b)) for question in questions]
        return [Verdict(margin, -margin, 1, 1) for margin in margins]

    def usage(self) -> dict[str, float]:
        return {"questions": float(self.asked)}


def samples(length: int) -> list[dict[str, Any]]:
    rows = []
    for n in range(4):
        prompt = [{"role": "user", "content": str(n)}]
        row = {"id": f"{n}/0", "row_id": str(n), "prompt_id": prompt_id(prompt), "prompt": prompt, "chosen": "xx"}
        rows.append(row | {"response": "x" * length, "finish_reason": "stop"})
    return rows


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for place, length in (("reference", 2), ("sample/run", 3), (f"sample/run/{SNAPSHOT}", 1)):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        write_jsonl(tmp_path / place / "samples.jsonl", samples(length))
        write_json(tmp_path / place / "metrics.json", {"policy_sha256": place})
    (tmp_path / "score").mkdir()  # as run_stage makes the folder of a stage's output
    rejected = [{"role": "assistant", "content": "x"}]
    write_jsonl(tmp_path / "eval.jsonl", [{"id": str(n), "rejected": rejected} for n in range(4)])
    return tmp_path


def test_every_policy_is_scored_in_its_place_and_the_last_one_bears_the_usage(out: Path) -> None:
    reference, judge = out / "reference" / "samples.jsonl", CountingJudge()
    metrics, facts = score_run(judge, None, out / "sample/run", reference, INTERVALS, out / "score")  # type: ignore[arg-type]
    assert facts == {"confidence": 0.9, "n": 4, "policy_sha256": "sample/run"}
    assert metrics["win_rate/chosen"] == metrics["win_rate/sft"] == 1.0
    assert metrics["questions"] == 16.0  # of both policies: 4 prompts, 2 opponents
    assert read_json(out / "score" / "metrics.json") == metrics | facts
    snapshot = read_json(out / "score" / SNAPSHOT / "metrics.json")
    assert snapshot["win_rate/chosen"] == 0.0 and snapshot["policy_sha256"] == f"sample/run/{SNAPSHOT}"
    assert "questions" not in snapshot
    assert {len(read_jsonl(out / "score" / place / "records.jsonl")) for place in (".", SNAPSHOT)} == {8}


def test_a_run_that_answered_other_prompts_is_refused(out: Path) -> None:
    write_jsonl(out / "reference" / "samples.jsonl", samples(2)[1:])
    with pytest.raises(UserError, match="answer different prompts"):
        score_run(
            CountingJudge(),  # type: ignore[arg-type]
            None,
            out / "sample/run",
            out / "reference" / "samples.jsonl",
            INTERVALS,
            out / "score",
        )


def test_the_controls_are_written_with_what_they_took(out: Path) -> None:
    (out / "controls").mkdir()
    files = (out / "reference" / "samples.jsonl", out / "eval.jsonl")
    metrics, facts = score_controls(CountingJudge(), None, *files, INTERVALS, 17, out / "controls")  # type: ignore[arg-type]
    assert facts == {"confidence": 0.9, "n": 4}
    assert metrics["win_rate/chosen_vs_rejected"] == 1.0 and metrics["win_rate/chosen_vs_chosen"] == 0.5
    assert metrics["questions"] == len(read_jsonl(out / "controls" / "records.jsonl")) == 16
    assert read_json(out / "controls" / "metrics.json") == metrics | facts


def test_controls_of_a_judge_that_prefers_one_of_equals_are_refused(out: Path) -> None:
    class Partial(CountingJudge):
        def compare(self, pairs: list[Question]) -> list[Verdict]:
            return [Verdict(1.0, -1.0, 1, 1) for _ in pairs]

    files = (out / "reference" / "samples.jsonl", out / "eval.jsonl")
    with pytest.raises(RuntimeError, match="prefers one of two identical answers"):
        score_controls(Partial(), None, *files, INTERVALS, 17, out / "controls")  # type: ignore[arg-type]
