"""What each benchmark asks, from the files that its authors publish and the user downloads; none is shipped here."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from epsilon_dpo.external.benchmarks.params import Benchmark
from epsilon_dpo.external.benchmarks.schemas import (
    ALPACA_EVAL_REFERENCE,
    ARENA_HARD_QUESTION,
    ARENA_HARD_QUESTION_2024,
    MT_BENCH_QUESTION,
    Row,
    read_rows,
)
from epsilon_dpo.pipeline.observability.errors import UserError

# The outputs of AlpacaEval's baseline; its instructions are the 805 of the benchmark, in the official order.
ALPACA_EVAL_FILE = "alpaca_eval_gpt4_baseline.json"
QUESTION_FILE = "question.jsonl"


@dataclass(frozen=True)
class Question:
    """One dialogue to hold: `turns` are the user's messages, `row` is the tool's own record."""

    id: str
    turns: list[str]
    row: Row


def read_questions(benchmark: Benchmark, data: Path) -> list[Question]:
    """The benchmark's questions in their official order.

    Args:
        data: the folder with the benchmark's files.

    Raises:
        UserError: the file is absent or is not in the benchmark's format, or an id occurs twice.
    """
    path = data / (ALPACA_EVAL_FILE if benchmark == "alpaca_eval" else QUESTION_FILE)
    if benchmark == "alpaca_eval":
        rows = read_rows(path, ALPACA_EVAL_REFERENCE)
        questions = [Question(str(number), [row["instruction"]], row) for number, row in enumerate(rows)]
    elif benchmark == "arena_hard":
        rows = read_rows(path, ARENA_HARD_QUESTION, ARENA_HARD_QUESTION_2024)
        questions = [Question(row["uid"], [row["prompt"]], row) for row in rows if "uid" in row] or [
            Question(row["question_id"], [row["turns"][0]["content"]], row) for row in rows
        ]
    else:
        rows = read_rows(path, MT_BENCH_QUESTION)
        questions = [Question(str(row["question_id"]), row["turns"], row) for row in rows]
    id_, count = Counter(question.id for question in questions).most_common(1)[0]
    if count > 1:
        raise UserError(
            f"external/{path} asks question {id_} {count} times; docs/external.md says where it comes from."
        )
    return questions
