"""The files that pass between the tools and us, as JSON schemas of one row each.

Fields that a tool does not read are allowed and not listed. Sources: alpaca_eval 0.6.6 (`main.evaluate`),
arena-hard-auto 196f6b8 (`gen_judgment.py`, `utils/completion.py`) and b00effb for the format of 2024, FastChat 0.2.36
(`llm_judge/common.py`).
"""

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row

Schema = dict[str, Any]

TEXT, NAME = {"type": "string"}, {"type": "string", "minLength": 1}
INTEGER, NUMBER = {"type": "integer"}, {"type": "number"}


def _object(required: Schema, optional: Schema | None = None) -> Schema:
    return {"type": "object", "properties": required | (optional or {}), "required": list(required)}


def _exactly(count: int, items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": count, "maxItems": count}


def _turns(turn: Schema, count: int) -> Schema:
    return _exactly(1, _object({"index": INTEGER, "turns": _exactly(count, turn)}))


def _said(role: str, content: Schema) -> Schema:
    return _object({"role": {"const": role}, "content": content})


# AlpacaEval: the reference's outputs, which also hold the instructions, and a model's, in the same order.
ALPACA_EVAL_REFERENCE = _object({"instruction": NAME, "output": TEXT, "generator": NAME}, {"dataset": TEXT})
ALPACA_EVAL_OUTPUT = _object({"dataset": TEXT, "instruction": NAME, "output": TEXT, "generator": NAME})

# Arena-Hard names its questions and answers anew since 2025.
ARENA_HARD_QUESTION = _object({"uid": NAME, "category": NAME, "prompt": NAME})
ARENA_HARD_QUESTION_2024 = _object({"question_id": NAME, "turns": _exactly(1, _object({"content": NAME}))})
ARENA_HARD_ANSWER = _object(
    {
        "uid": NAME,
        "ans_id": NAME,
        "model": NAME,
        "messages": {
            "type": "array",
            "prefixItems": [_said("user", NAME), _said("assistant", _object({"answer": TEXT}))],
            "minItems": 2,
            "maxItems": 2,
        },
        "tstamp": NUMBER,
    },
    {"metadata": {"type": "object"}},  # counts for style control, which upstream's utils/add_markdown_info.py adds
)
ARENA_HARD_ANSWER_2024 = _object(
    {
        "question_id": NAME,
        "answer_id": NAME,
        "model_id": NAME,
        "choices": _turns(_object({"content": TEXT, "token_len": INTEGER}), 1),
        "tstamp": NUMBER,
    }
)

MT_BENCH_QUESTION = _object({"question_id": INTEGER, "category": NAME, "turns": _exactly(2, NAME)})
MT_BENCH_ANSWER = _object(
    {
        "question_id": INTEGER,
        "answer_id": NAME,
        "model_id": NAME,
        "choices": _turns(TEXT, 2),
        "tstamp": NUMBER,
    }
)


def problem(rows: Any, schema: Schema) -> str | None:
    """What is wrong with the first bad row, with its number from 1; None if every row satisfies `schema`."""
    if not isinstance(rows, list) or not rows:
        return "it is no list of rows"
    validator = Draft202012Validator(schema)
    for number, row in enumerate(rows, start=1):
        for error in validator.iter_errors(row):
            place = "".join(f"[{part!r}]" for part in error.absolute_path)
            return f"row {number}{place}: {error.message[:200]}"
    return None


def read_rows(path: Path, *schemas: Schema) -> list[Row]:
    """The rows of a file that the user supplies, JSON or (by its name) JSON lines; all satisfy one of `schemas`.

    Raises:
        UserError: it is absent, is not JSON, or has other rows; what the first schema misses is named.
    """
    advice = "docs/external.md says where it comes from"
    try:
        text = path.read_text("utf-8")
        rows = [json.loads(line) for line in text.split("\n") if line] if path.suffix == ".jsonl" else json.loads(text)
    except FileNotFoundError:
        raise UserError(f"external/{path} does not exist; {advice}.") from None
    except ValueError as error:  # no JSON, or no UTF-8
        raise UserError(f"external/{path} is not JSON ({error}); {advice}.") from None
    problems = [problem(rows, schema) for schema in schemas]
    if None not in problems:
        raise UserError(f"external/{path} is not in the tool's format, {problems[0]}; {advice}.")
    return rows
