"""Which answers meet which: a run against its opponents, and the controls whose outcome is known."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epsilon_dpo.errors import UserError
from epsilon_dpo.outputs import read_jsonl

Row = dict[str, Any]
RUN, SFT, CHOSEN, REJECTED = "run", "sft", "chosen", "rejected"


@dataclass(frozen=True)
class Contest:
    """Answer a against answer b to one prompt.

    Attributes:
        id: of the evaluation row.
        prompt: messages.
        answer: whose answer a is.
        opponent: whose answer b is.
        finish_reason: how a ended, if a was sampled.
    """

    id: str
    prompt: list[dict[str, str]]
    answer: str
    opponent: str
    a: str
    b: str
    finish_reason: str | None = None


def run_contests(samples: list[Row], reference: list[Row]) -> list[Contest]:
    """A run's answers against the chosen ones and against the reference's, which answer the same prompts."""
    return [
        Contest(row["id"], row["prompt"], RUN, CHOSEN, row["response"], row["chosen"], row["finish_reason"])
        for row in samples
    ] + [
        Contest(row["id"], row["prompt"], RUN, SFT, row["response"], other["response"], row["finish_reason"])
        for row, other in zip(samples, reference, strict=True)
    ]


def control_contests(reference: list[Row], pairs: list[Row]) -> list[Contest]:
    """SFT against chosen; chosen against rejected, the judge's accuracy; chosen against itself, ties only.

    Args:
        reference: rows of out/reference/samples.jsonl.
        pairs: rows of out/validate/eval.jsonl, at least those that `reference` answers.

    Raises:
        UserError: `reference` answers a row that is not among the pairs.
    """
    rejected = {row["id"]: row["rejected"][0]["content"] for row in pairs}
    unknown = [row["id"] for row in reference if row["id"] not in rejected]
    if unknown:
        raise UserError(
            f"out/reference answers row {unknown[0]}, which out/validate/eval.jsonl lacks; run `dvc repro`."
        )
    return [
        Contest(row["id"], row["prompt"], SFT, CHOSEN, row["response"], row["chosen"], row["finish_reason"])
        for row in reference
    ] + [
        Contest(row["id"], row["prompt"], CHOSEN, opponent, row["chosen"], text)
        for row in reference
        for opponent, text in ((REJECTED, rejected[row["id"]]), (CHOSEN, row["chosen"]))
    ]


def label_contests(pairs: list[Row]) -> list[Contest]:
    """Chosen against rejected of rows of out/validate/*.jsonl."""
    return [
        Contest(row["id"], row["prompt"], CHOSEN, REJECTED, row["chosen"][0]["content"], row["rejected"][0]["content"])
        for row in pairs
    ]


def read_same_prompts(samples: Path, others: Path) -> tuple[list[Row], list[Row]]:
    """The rows of two samples.jsonl that answer the same prompts in the same order.

    Raises:
        UserError: they do not.
    """
    rows, other_rows = read_jsonl(samples), read_jsonl(others)
    if [row["id"] for row in rows] != [row["id"] for row in other_rows]:
        raise UserError(
            f"{samples} and {others} answer different prompts; `dvc repro` samples both under the same numbers."
        )
    return rows, other_rows
