"""What single answers are worth by a classifier, and the best of several of the reference's, by hand."""

from typing import Any

import pytest

from epsilon_dpo.judging.judges.interface import Question, Verdict
from epsilon_dpo.judging.scoring.comparisons import control_comparisons, run_comparisons
from epsilon_dpo.judging.scoring.intervals import Intervals
from epsilon_dpo.judging.scoring.scoring import by_opponent, judge_comparisons
from epsilon_dpo.judging.scoring.single_answers import best_of

INTERVALS = Intervals(0.95, 17)
P = {"good": 0.9, "fair": 0.6, "even": 0.5, "bad": 0.2}
SCORE = {"good": 2.0, "fair": 0.5, "even": 0.0, "bad": -1.5}


class Classifier:
    def compare(self, pairs: list[Question]) -> list[Verdict]:
        return [
            Verdict(
                SCORE[a] - SCORE[b], SCORE[b] - SCORE[a], 1, 1,
                score_a=SCORE[a], score_b=SCORE[b], probability_a=P[a], probability_b=P[b],
            )
            for _, a, b in pairs
        ]  # fmt: skip


def row(prompt: str, number: int, response: str) -> dict[str, Any]:
    found = {"id": f"{prompt}/{number}", "row_id": prompt, "prompt_id": prompt, "response": response, "chosen": "fair"}
    return found | {"prompt": [{"role": "user", "content": prompt}], "finish_reason": "stop"}


REFERENCE = [row("p", 0, "bad"), row("p", 1, "good"), row("q", 0, "even"), row("q", 1, "bad")]
PAIRS = [{"id": prompt, "rejected": [{"content": "bad"}]} for prompt in "pq"]


def test_positive_share_and_mean_probability_with_their_intervals() -> None:
    run = [row("p", 0, "good"), row("p", 1, "good"), row("q", 0, "fair"), row("q", 1, "even")]
    found = by_opponent(judge_comparisons(Classifier(), run_comparisons(run, REFERENCE), None), INTERVALS)  # type: ignore[arg-type]
    assert found["positive_share/run"] == 0.75, "even is not positive"
    assert found["positive_probability/run"] == pytest.approx((0.9 + 0.9 + 0.6 + 0.5) / 4)
    assert found["positive_share/sft"] == 0.25 and found["judge_score/sft"] == pytest.approx((-1.5 + 2.0 - 1.5) / 4)
    for name in ("positive_share", "positive_probability", "judge_score"):
        assert found[f"{name}/run_low"] < found[f"{name}/run"] < found[f"{name}/run_high"]
        assert found[f"{name}/run_n"] == 2, "prompts"
    assert not any("best_of" in name for name in found), "which is what choosing among the reference's reaches"


def controls(reference: list[dict[str, Any]]) -> dict[str, float]:
    comparisons = control_comparisons(reference, PAIRS, 17)
    return by_opponent(judge_comparisons(Classifier(), comparisons, None), INTERVALS)  # type: ignore[arg-type]


def test_the_best_of_the_references_answers_is_the_highest_score_of_each_prompt() -> None:
    found = controls(REFERENCE)
    assert found["positive_probability/best_of_2"] == pytest.approx((0.9 + 0.5) / 2)
    assert found["positive_share/best_of_2"] == 0.5 and found["judge_score/best_of_2"] == 1.0
    assert found["positive_share/sft"] == 0.25


def test_one_answer_or_unequally_many_have_no_best() -> None:
    for reference in (REFERENCE[::2], REFERENCE[:3]):
        assert not any("best_of" in name for name in controls(reference))
    assert best_of([{"prompt_id": "p"}, {"prompt_id": "p"}], INTERVALS) == {}, "a judge that only compares"


def test_the_best_by_the_judge_has_its_own_true_reward() -> None:
    records = [
        {"prompt_id": p, "score_a": s, "true_a": t} for p, s, t in [("p", 1, 0), ("p", 0, 9), ("q", 2, 4), ("q", 1, 0)]
    ]
    assert best_of(records, INTERVALS)["true_reward/best_of_2"] == 2.0
