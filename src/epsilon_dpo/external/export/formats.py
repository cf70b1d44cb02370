"""A policy's answers as the files that each tool reads. Times are 0.0, ids are hashes: equal answers, equal bytes."""

import hashlib
from pathlib import Path
from typing import Any

from epsilon_dpo.external.benchmarks.params import Export, Run
from epsilon_dpo.external.benchmarks.questions import Question
from epsilon_dpo.external.benchmarks.schemas import (
    ALPACA_EVAL_OUTPUT,
    ARENA_HARD_ANSWER,
    ARENA_HARD_ANSWER_2024,
    MT_BENCH_ANSWER,
    Row,
    problem,
)
from epsilon_dpo.pipeline.stage.files import write_json, write_jsonl

# Of every answer; no score depends on it, and a real one would differ between two equal runs.
TSTAMP = 0.0


def write_answers(
    name: str, run: Run, questions: list[Question], answers: list[Row], export: Export, out: Path
) -> Path:
    """Write the answers of model `name` below `out` as the tool of `run.benchmark` reads them.

    Args:
        questions: those of the benchmark in the official order, which is also the file's.
        answers: one per question.

    Returns:
        The file.

    Raises:
        ValueError: a row is not what the tool's schema asks for.
    """
    if run.benchmark == "alpaca_eval":
        schema, row_of = ALPACA_EVAL_OUTPUT, _alpaca_eval
    elif run.benchmark == "mt_bench":
        schema, row_of = MT_BENCH_ANSWER, _mt_bench
    elif export.arena_hard_format == "current":
        schema, row_of = ARENA_HARD_ANSWER, _arena_hard
    else:
        schema, row_of = ARENA_HARD_ANSWER_2024, _arena_hard_2024
    answered = {answer["id"]: answer["turns"] for answer in answers}
    rows = [row_of(name, question, answered[question.id]) for question in questions]
    if wrong := problem(rows, schema):
        raise ValueError(f"the answers of {name} are not in the tool's format, {wrong}")
    path = answer_file(name, run, out)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        write_json(path, rows)
    else:
        write_jsonl(path, rows)
    return path


def answer_file(name: str, run: Run, out: Path) -> Path:
    """Where `write_answers` puts them."""
    return out / ("model_outputs.json" if run.benchmark == "alpaca_eval" else f"model_answer/{name}.jsonl")


def _alpaca_eval(name: str, question: Question, turns: list[Row]) -> Row:
    """The leaderboard joins on the instruction and the length control on the row's number."""
    return {
        "dataset": question.row.get("dataset", ""),
        "instruction": question.turns[0],
        "output": turns[0]["response"],
        "generator": name,
    }


def _arena_hard(name: str, question: Question, turns: list[Row]) -> Row:
    said: list[dict[str, Any]] = [
        {"role": "user", "content": question.turns[0]},
        {"role": "assistant", "content": {"answer": turns[0]["response"]}},
    ]
    return {"uid": question.id, "ans_id": _id(name, question), "model": name, "messages": said, "tstamp": TSTAMP}


def _arena_hard_2024(name: str, question: Question, turns: list[Row]) -> Row:
    """`token_len` counts the policy's own tokens, upstream's GPT-3.5's; it is shown beside the score and not in it."""
    turn = {"content": turns[0]["response"], "token_len": len(turns[0]["response_ids"])}
    return _with_choice(name, question, question.id, turn)


def _mt_bench(name: str, question: Question, turns: list[Row]) -> Row:
    return _with_choice(name, question, question.row["question_id"], *(turn["response"] for turn in turns))


def _with_choice(name: str, question: Question, question_id: str | int, *turns: Any) -> Row:
    return {
        "question_id": question_id,
        "answer_id": _id(name, question),
        "model_id": name,
        "choices": [{"index": 0, "turns": list(turns)}],
        "tstamp": TSTAMP,
    }


def _id(name: str, question: Question) -> str:
    """As long as the tools' own random ids."""
    return hashlib.sha256(f"{name}/{question.id}".encode()).hexdigest()[:22]
