"""How many pairs there are and how long: from out/pairs where it is made already, else the most that is allowed."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.pipeline.stage.files import JsonlFile, count_lines

PAIRS, VALIDATED = Path("out/pairs"), Path("out/validate")


class Lengths:
    """Of pairs, in tokens.

    Attributes:
        prompt, chosen, rejected: one number per pair, or one for all where `measured` is false.
        count: pairs; None: not known before they are fetched.
        measured: whether these are the pairs themselves; if not, the greatest lengths that a pair can have.
        passed_over: whether out/pairs is there and holds others.
    """

    def __init__(
        self, rows: Iterable[tuple[int, int, int]], count: int | None, measured: bool, passed_over: bool = False
    ) -> None:
        self.prompt, self.chosen, self.rejected = np.array(list(rows), dtype=float).T
        self.count, self.measured, self.passed_over = count, measured, passed_over


@dataclass(frozen=True)
class Form:
    """How texts become rows, and what of it a computation costs.

    Attributes:
        tokens: of a text (a pair, or a sequence) in all its rows, the mean; without padding.
        columns: of the longest row, which decides the memory.
        squares: of the lengths of a text's rows, summed, the mean: what attention costs.
        scored: answer tokens of a text, the mean.
        most_scored: of the text with the longest row.
    """

    tokens: float
    columns: int
    squares: float
    scored: float
    most_scored: int


def shared_rows(lengths: Lengths) -> Form:
    """A pair is one row [prompt, chosen, rejected] (align.share_prompt)."""
    answers = lengths.chosen + lengths.rejected
    return _form([lengths.prompt + answers], answers)


def two_rows(lengths: Lengths) -> Form:
    """A pair is a row for each of its answers."""
    rows = [lengths.prompt + lengths.chosen, lengths.prompt + lengths.rejected]
    return _form(rows, lengths.chosen + lengths.rejected)


def chosen_rows(lengths: Lengths, every_token: bool) -> Form:
    """The prompt with the chosen answer, of which SFT scores the answer or every token."""
    row = lengths.prompt + lengths.chosen
    return _form([row], row if every_token else lengths.chosen)


def _form(rows: list[np.ndarray], scored: np.ndarray) -> Form:
    """Of n texts, from the lengths of each one's first row, second row, ... and how much of it is scored, [n] each."""
    stacked = np.stack(rows)
    return Form(
        tokens=float(stacked.sum(0).mean()),
        columns=int(stacked.max()),
        squares=float((stacked**2).sum(0).mean()),
        scored=float(scored.mean()),
        most_scored=int(scored[stacked.max(0).argmax()]),
    )


def lengths_of(split: str, tokens: Tokens, count: int | None, own: bool) -> Lengths:
    """Of the pairs of a split, `train` or `eval`: those of out/pairs, else as many and as long as can be.

    Args:
        count: how many there are at most; None: not known.
        own: whether out/ is what is asked about; another file's pairs, or another tokenizer's, have other lengths.
    """
    file = PAIRS / f"{split}.jsonl"
    if own and file.is_file() and (rows := [_lengths(row) for row in JsonlFile(file)]):
        return Lengths(rows, len(rows), measured=True)
    return at_most(tokens, count, passed_over=not own and file.is_file())


def at_most(tokens: Tokens, count: int | None, passed_over: bool = False) -> Lengths:
    """`count` pairs of which none can be longer."""
    longest = tokens.max_length - 1
    return Lengths([(1, longest, longest)], count, measured=False, passed_over=passed_over)


def of_dataset(split: str, fetched: int | None, own: bool) -> int | None:
    """Pairs of the dataset: those of out/validate, else those that are fetched."""
    validated = VALIDATED / f"{split}.jsonl"
    return count_lines(validated) if own and validated.is_file() else fetched


def _lengths(row: dict[str, Any]) -> tuple[int, int, int]:
    return len(row["prompt_ids"]), len(row["chosen_ids"]), len(row["rejected_ids"])
