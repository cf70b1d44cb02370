"""What every judge shares: loading by kind, and ranks from comparisons."""

import math
from pathlib import Path

import pytest

from epsilon_dpo.judging.judges.interface import Question, Verdict, rank_by_comparison
from epsilon_dpo.judging.judges.loading import load_judge
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import write_json

PROMPTS = [[{"role": "user", "content": text}] for text in ("first", "second")]


class TableJudge:
    """f(i, j) as written down, by prompt; keeps what it was asked."""

    def __init__(self, table: dict[tuple[str, str, str], float]) -> None:
        self.table = table
        self.asked: list[tuple[str, str, str]] = []

    def compare(self, questions: list[Question]) -> list[Verdict]:
        self.asked += [(prompt[-1]["content"], a, b) for prompt, a, b in questions]
        return [
            Verdict(self.table[name, a, b], self.table[name, b, a], 1, 1)
            if (name, a, b) in self.table
            else Verdict(0.0, 0.0, 1, 1, refused=True)
            for name, a, b in self.asked[-len(questions) :]
        ]

    def rank(self, prompts, candidates):
        return rank_by_comparison(self, prompts, candidates)

    def usage(self) -> dict[str, float]:
        return {}


def test_rank_scores_are_upstream_s_by_hand() -> None:
    """x, y, z with M = [[0, 1, 4], [-2, 0, 3], [-1, .5, 0]]: (M - M^T) / 3 summed by rows is (8, -.5, -7.5) / 3."""
    first = {("x", "y"): 1.0, ("x", "z"): 4.0, ("y", "x"): -2.0, ("y", "z"): 3.0, ("z", "x"): -1.0, ("z", "y"): 0.5}
    table = {("first", *pair): f for pair, f in first.items()}
    table |= {("second", "x", "y"): -1.0, ("second", "y", "x"): 2.0}
    judge = TableJudge(table)
    scores, others = judge.rank(PROMPTS, [["x", "y", "z"], ["x", "y", "x"]])
    assert scores == pytest.approx([8.0 / 3, -0.5 / 3, -7.5 / 3])
    assert others == [-1.0, 2.0, -1.0]
    assert len(judge.asked) == 3 + 1  # a pair of texts once, equal texts never


def test_what_the_judge_refuses_to_compare_is_not_as_good() -> None:
    """x beats y by 3; nobody compared z with anything, and x with w alone: w loses by 6."""
    first = {("x", "y"): 1.0, ("y", "x"): -2.0, ("x", "w"): 4.0, ("w", "x"): -2.0}
    judge = TableJudge({("first", *pair): f for pair, f in first.items()})
    [scores] = judge.rank(PROMPTS[:1], [["x", "y", "z", "w"]])
    assert scores[:2] == [3.0, -1.5] and math.isnan(scores[2]) and scores[3] == -3.0


@pytest.mark.parametrize("content", [None, {"source": "trained"}, {"kind": "oracle"}], ids=["none", "old", "unknown"])
def test_a_folder_without_a_judge_is_one_sentence(tmp_path: Path, content: dict | None) -> None:
    if content is not None:
        write_json(tmp_path / "judge.json", content)
    with pytest.raises(UserError, match="describes no judge that this version knows; `dvc repro` makes it anew"):
        load_judge(tmp_path)
