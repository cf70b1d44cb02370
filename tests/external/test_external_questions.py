"""Each benchmark's own files are read in their official order, and anything else is refused in one sentence."""

from pathlib import Path
from typing import Any

import pytest
from benchmark_files import write_arena_hard

from epsilon_dpo.external.benchmarks.questions import read_questions
from epsilon_dpo.pipeline.observability.errors import UserError

FILES = {"alpaca_eval": "alpaca_eval_gpt4_baseline.json", "arena_hard": "question.jsonl", "mt_bench": "question.jsonl"}


def test_questions_in_the_official_order(external: Path) -> None:
    alpaca = read_questions("alpaca_eval", Path("data/alpaca_eval"))
    assert [question.id for question in alpaca] == [str(place) for place in range(10)]
    assert [question.turns for question in alpaca[:2]] == [["w1 w2 w10"], ["w3 w11"]]
    arena = read_questions("arena_hard", Path("data/arena_hard"))
    assert [(question.id, question.turns) for question in arena[:2]] == [("id0", ["w1 w2 w20"]), ("id1", ["w3 w21"])]
    mt_bench = read_questions("mt_bench", Path("data/mt_bench"))
    assert [(question.id, len(question.turns)) for question in mt_bench] == [("81", 2), ("111", 2), ("141", 2)]


def test_arena_hard_questions_of_2024_are_the_same_questions(external: Path) -> None:
    now = read_questions("arena_hard", Path("data/arena_hard"))
    write_arena_hard(Path("data/arena_hard"), of_2024=True)
    then = read_questions("arena_hard", Path("data/arena_hard"))
    assert [(question.id, question.turns) for question in now] == [(question.id, question.turns) for question in then]


@pytest.mark.parametrize("benchmark", FILES)
def test_an_absent_file_is_named(external: Path, benchmark: Any) -> None:
    path = Path("data") / benchmark / FILES[benchmark]
    path.unlink()
    with pytest.raises(
        UserError, match=f"^external/{path} does not exist; docs/external.md says where it comes from.$"
    ):
        read_questions(benchmark, path.parent)


@pytest.mark.parametrize(
    ("benchmark", "text", "reason"),
    [
        ("alpaca_eval", '[{"instruction": "a", "output": "b"}]', "row 1: 'generator' is a required property"),
        (
            "alpaca_eval",
            '[{"instruction": 1, "output": "b", "generator": "c"}]',
            r"row 1\['instruction'\]: 1 is not of",
        ),
        ("alpaca_eval", '{"instruction": "a"}', "it is no list of rows"),
        ("alpaca_eval", "[{", "is not JSON"),
        ("arena_hard", "", "it is no list of rows"),
        ("arena_hard", '{"uid": "a", "prompt": "b"}', "row 1: 'category' is a required property"),
        (
            "mt_bench",
            '{"question_id": 81, "category": "math", "turns": ["one"]}',
            r"\['turns'\]: \['one'\] is too short",
        ),
        (
            "mt_bench",
            '{"question_id": "81", "category": "math", "turns": ["a", "b"]}',
            r"\['question_id'\]: '81' is not",
        ),
        ("mt_bench", '{"question_id": 1, "category": "x", "turns": ["a", "b"]}\n' * 2, "asks question 1 2 times"),
    ],
)
def test_another_format_is_refused(external: Path, benchmark: Any, text: str, reason: str) -> None:
    path = Path("data") / benchmark / FILES[benchmark]
    path.write_text(text)
    with pytest.raises(UserError, match=reason) as refusal:
        read_questions(benchmark, path.parent)
    assert str(refusal.value).startswith(f"external/{path} ") and str(refusal.value).count("\n") == 0


def test_a_file_that_is_no_text_is_refused(external: Path) -> None:
    Path("data/mt_bench/question.jsonl").write_bytes(b'{"question_id": "\xe5')
    with pytest.raises(UserError, match=r"^external/data/mt_bench/question.jsonl is not JSON \('utf-8' codec"):
        read_questions("mt_bench", Path("data/mt_bench"))
