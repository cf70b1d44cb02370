"""Which answers are compared with which: a run against its opponents, and the controls whose outcome is known."""

from dataclasses import dataclass
from pathlib import Path

from epsilon_dpo.data.prompts.prompt_ids import partners
from epsilon_dpo.judging.judges.interface import Question
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row, read_jsonl
from epsilon_dpo.pipeline.stage.runs import CHOSEN, REJECTED, RUN, SFT, SHUFFLED


@dataclass(frozen=True)
class Comparison:
    """A question for the judge, and where its two answers come from.

    Attributes:
        id: that of the evaluation row, or of the sample that answers it.
        answer: name of whoever gave answer a.
        opponent: name of whoever gave answer b.
        finish_reason: how a ended, if a was sampled.
    """

    id: str
    question: Question
    answer: str
    opponent: str
    finish_reason: str | None = None


def run_comparisons(samples: list[Row], reference: list[Row]) -> list[Comparison]:
    """A run's answers against the chosen ones and against the reference's, which answer the same prompts."""
    return [_against_chosen(row, RUN) for row in samples] + [
        Comparison(
            row["id"], Question(row["prompt"], row["response"], other["response"]), RUN, SFT, row["finish_reason"]
        )
        for row, other in zip(samples, reference, strict=True)
    ]


def control_comparisons(reference: list[Row], pairs: list[Row], seed: int) -> list[Comparison]:
    """Comparisons whose outcome is known beforehand, and those of the reference itself.

    SFT against chosen; chosen against rejected, the judge's accuracy; chosen against itself, ties only; SFT's answers
    to other prompts (drawn by `seed`) against chosen, where chosen should win: a judge that looks at the prompt sees
    that the other answer is irrelevant. The last one is left out where more than half of the answers share a prompt.

    Args:
        reference: rows of out/reference/samples.jsonl.
        pairs: rows of out/validate/eval.jsonl, at least those that `reference` answers.

    Raises:
        UserError: `reference` answers a row that is not among the pairs.
    """
    rejected = {row["id"]: row["rejected"][0]["content"] for row in pairs}
    rows = {row["row_id"]: row for row in reference}  # one of the samples of each row
    unknown = [id_ for id_ in rows if id_ not in rejected]
    if unknown:
        raise UserError(
            f"out/reference answers row {unknown[0]}, which out/validate/eval.jsonl lacks; run `dvc repro`."
        )
    return (
        [_against_chosen(row, SFT) for row in reference]
        + [
            Comparison(id_, Question(row["prompt"], row["chosen"], text), CHOSEN, opponent)
            for id_, row in rows.items()
            for opponent, text in ((REJECTED, rejected[id_]), (CHOSEN, row["chosen"]))
        ]
        + _shuffled(reference, seed)
    )


def label_comparisons(pairs: list[Row]) -> list[Comparison]:
    """Chosen against rejected of rows of out/validate/*.jsonl."""
    return [
        Comparison(
            row["id"],
            Question(row["prompt"], row["chosen"][0]["content"], row["rejected"][0]["content"]),
            CHOSEN,
            REJECTED,
        )
        for row in pairs
    ]


def _against_chosen(row: Row, answer: str) -> Comparison:
    return Comparison(
        row["id"], Question(row["prompt"], row["response"], row["chosen"]), answer, CHOSEN, row["finish_reason"]
    )


def _shuffled(reference: list[Row], seed: int) -> list[Comparison]:
    try:
        donors = partners([row["prompt_id"] for row in reference], seed)
    except ValueError:
        return []
    return [
        _against_chosen({**row, **{key: reference[donor][key] for key in ("response", "finish_reason")}}, SHUFFLED)
        for row, donor in zip(reference, donors, strict=True)
    ]


def read_same_prompts(samples: Path, others: Path) -> tuple[list[Row], list[Row]]:
    """The rows of two samples.jsonl that answer the same prompts in the same order.

    Raises:
        UserError: they do not.
    """
    rows, other_rows = read_jsonl(samples), read_jsonl(others)
    if [row["id"] for row in rows] != [row["id"] for row in other_rows]:
        raise UserError(
            f"{samples} and {others} answer different prompts; `dvc repro` samples both under the same settings."
        )
    return rows, other_rows
