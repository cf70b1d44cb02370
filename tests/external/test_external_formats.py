"""The exported files, field by field, and their schemas, which refuse what a tool could not read."""

import copy
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import rows_of

from epsilon_dpo.external.benchmarks import schemas
from epsilon_dpo.external.benchmarks.params import Export, Run
from epsilon_dpo.external.benchmarks.schemas import problem, read_rows
from epsilon_dpo.external.export.formats import write_answers
from epsilon_dpo.external.verdicts.tool import kept_rows
from epsilon_dpo.pipeline.stage.files import write_jsonl

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "alpaca_eval": ("current", "model_outputs.json", schemas.ALPACA_EVAL_OUTPUT),
    "arena_hard": ("current", "model_answer/mine.jsonl", schemas.ARENA_HARD_ANSWER),
    "arena_hard 2024": ("2024", "model_answer/mine.jsonl", schemas.ARENA_HARD_ANSWER_2024),
    "mt_bench": ("current", "model_answer/mine.jsonl", schemas.MT_BENCH_ANSWER),
}


@pytest.fixture(params=CASES)
def exported(request: pytest.FixtureRequest, external: Path, dialogues: Any) -> tuple[str, Path, list[dict[str, Any]]]:
    benchmark: Any = request.param.split()[0]
    questions, answers = dialogues(benchmark)
    run = Run(policy="sft", benchmark=benchmark)
    export = Export(arena_hard_format=CASES[request.param][0])
    file = write_answers("mine", run, questions, answers[::-1], export, Path("out"))
    return request.param, file, rows_of(file)


SECOND: dict[str, dict[str, Any]] = {
    "alpaca_eval": {
        "dataset": "koala",
        "instruction": "w3 w11",
        "output": "good answer-1",
        "generator": "mine",
    },
    "arena_hard": {
        "uid": "id1",
        "model": "mine",
        "messages": [
            {"role": "user", "content": "w3 w21"},
            {"role": "assistant", "content": {"answer": "good answer-1"}},
        ],
        "tstamp": 0.0,
    },
    "arena_hard 2024": {
        "question_id": "id1",
        "model_id": "mine",
        "choices": [{"index": 0, "turns": [{"content": "good answer-1", "token_len": 3}]}],
        "tstamp": 0.0,
    },
    "mt_bench": {
        "question_id": 111,
        "model_id": "mine",
        "choices": [{"index": 0, "turns": ["good good answer-2", "good good good answer-3"]}],
        "tstamp": 0.0,
    },
}


def test_the_file_is_the_tools(exported: Any) -> None:
    """The second row of each, the official order, and ids that differ between rows and not between exports."""
    case, file, rows = exported
    assert str(file) == f"out/{CASES[case][1]}"
    assert len(rows) == {"alpaca_eval": 10, "arena_hard": 6, "arena_hard 2024": 6, "mt_bench": 3}[case]
    id_ = {"arena_hard": "ans_id", "alpaca_eval": "instruction"}.get(case, "answer_id")
    assert len({row[id_] for row in rows}) == len(rows)
    second = {key: value for key, value in rows[1].items() if key in SECOND[case]}
    assert second == SECOND[case]
    assert set(rows[1]) - set(second) == ({id_} if case != "alpaca_eval" else set())


def paths(content: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a row."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else []
    return [place for key, value in items for place in [(*here, key), *paths(value, (*here, key))]]


def test_each_field_is_asked_for_with_its_type(exported: Any) -> None:
    """A row without any one of its fields, or with another type there, is refused; the row itself is not."""
    case, _, rows = exported
    schema = CASES[case][2]
    assert problem(rows, schema) is None
    for place in paths(rows[0]):
        for change in ("remove", "retype"):
            row = copy.deepcopy(rows[0])
            parent = row
            for key in place[:-1]:
                parent = parent[key]
            if change == "remove":
                del parent[place[-1]]
            else:
                parent[place[-1]] = None
            assert problem([row], schema) is not None, (place, change)


def test_the_same_answers_give_the_same_bytes(exported: Any, dialogues: Any) -> None:
    case, file, _ = exported
    before = file.read_bytes()
    benchmark: Any = case.split()[0]
    run, export = Run(policy="sft", benchmark=benchmark), Export(arena_hard_format=CASES[case][0])
    write_answers("mine", run, *dialogues(benchmark), export, Path("out"))
    assert file.read_bytes() == before


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_a_line_break_within_a_text_ends_no_row(tmp_path: Path, character: str) -> None:
    """Else a verdict that was paid for is taken for one that a crash cut off, again and again."""
    row = {"question_id": "1", "text": f"tea{character}time"}
    write_jsonl(tmp_path / "rows.jsonl", [row])
    assert kept_rows(tmp_path / "rows.jsonl") == [row]
    assert read_rows(tmp_path / "rows.jsonl", {"type": "object"}) == [row]
