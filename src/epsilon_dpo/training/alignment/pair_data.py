"""out/pairs/*.jsonl as batches: 2B rows for B pairs, the chosen ones first, padded on the right."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from epsilon_dpo.data.prompts.prompt_ids import partners
from epsilon_dpo.models.logps.padding import pad_right, pad_right_shared
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import JsonlFile, read_jsonl

ANSWERS = ("chosen_ids", "rejected_ids")
SIDES = ("prompt_ids", *ANSWERS)
SCORES = ("chosen_score", "rejected_score")
FLIP_RATE = "flip_rate"


class PairData(torch.utils.data.Dataset[dict[str, Any]]):
    """Token ids of preference pairs, 4 bytes each: {"prompt_ids", "chosen_ids", "rejected_ids"} as int32 arrays.

    With `mismatched_by` (a seed) every pair also holds {"mismatched_chosen_ids", "mismatched_rejected_ids"}: the
    answers of another pair with another prompt, the same in every epoch, each cut so that with the prompt it is no
    longer than the longest answer with its own. KTO estimates its KL on them. They are drawn from all pairs and not
    from the neighbours in a batch, so that they do not depend on the batch size and never belong to the same prompt.

    With `scores`, which hold {"chosen_score", "rejected_score"} for each row, every pair also holds its own two; with
    `flip_rates` it keeps its "flip_rate".
    """

    def __init__(
        self,
        rows: Sequence[dict[str, Any]],
        mismatched_by: int | None = None,
        scores: Sequence[dict[str, float]] | None = None,
        flip_rates: bool = False,
    ) -> None:
        self.rows: list[dict[str, Any]] = [_as_arrays(row) for row in rows]
        if scores is not None:
            for row, own in zip(self.rows, scores, strict=True):
                row |= {name: own[name] for name in SCORES}
        if flip_rates:
            for kept, row in zip(self.rows, rows, strict=True):
                kept[FLIP_RATE] = row[FLIP_RATE]
        if mismatched_by is not None:
            self._add_mismatched(mismatched_by)

    @classmethod
    def read(
        cls, path: Path, mismatched_by: int | None = None, margins: Path | None = None, flip_rates: bool = False
    ) -> "PairData":
        """The pairs of a file of stage `pairs`, with the scores of one of stage `margins` if `margins` names it.

        Raises:
            UserError: the file is empty, a pair has no scores or no flip rate, or more than half of the pairs share a
                prompt and mismatched answers are wanted.
        """
        rows = [row | _as_arrays(row) for row in JsonlFile(path)]  # a list of Python's ints takes ten times as much
        if not rows:
            raise UserError(f"{path} holds no pair; check what stage validate dropped (out/validate/dropped.jsonl).")
        without = [row["id"] for row in rows if FLIP_RATE not in row] if flip_rates else []
        if without:
            raise UserError(
                f"{path}: {len(without)} of {len(rows)} pairs have no {FLIP_RATE}, first {without[0]}; state the run's "
                "label_smoothing in place of flip_by in params.yaml."
            )
        try:
            return cls(rows, mismatched_by, None if margins is None else _scores_of(rows, margins), flip_rates)
        except ValueError as error:
            raise UserError(
                f"{path}: {error}, so that not every prompt can be given an answer to another one, which this method "
                "needs for its KL; choose another method, or data with more prompts."
            ) from None

    def _add_mismatched(self, seed: int) -> None:
        longest = max(len(row["prompt_ids"]) + len(row[side]) for row in self.rows for side in ANSWERS)
        for row, donor in zip(
            self.rows, partners([row["prompt_ids"].tobytes() for row in self.rows], seed), strict=True
        ):
            for side in ANSWERS:
                row[f"mismatched_{side}"] = self.rows[donor][side][: longest - len(row["prompt_ids"])]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


def _as_arrays(row: dict[str, Any]) -> dict[str, Any]:
    return {side: np.asarray(row[side], dtype=np.int32) for side in SIDES}


def _scores_of(pairs: Sequence[dict[str, Any]], margins: Path) -> list[dict[str, float]]:
    """The row of `margins` with each pair's id.

    Raises:
        UserError: there is none for some pair, or none at all.
    """
    by_id = {row["id"]: row for row in read_jsonl(margins)} if margins.is_file() else {}
    if not by_id:
        raise UserError(
            f"{margins} holds no scores, which this method needs; set margins: {{source: judge, temperature: null}} in "
            "params.yaml and run `dvc repro`."
        )
    missing = [pair["id"] for pair in pairs if pair["id"] not in by_id]
    if missing:
        raise UserError(
            f"{margins} holds no scores of {len(missing)} of {len(pairs)} pairs, first {missing[0]}; run `dvc repro "
            "margins`, which makes them from the present pairs."
        )
    return [by_id[pair["id"]] for pair in pairs]


class PairCollator:
    """Rows of PairData as {"input_ids", "attention_mask", "completion_mask"}, int64 [2B, T] each.

    Row i is pair i with its chosen answer, row B+i the same pair with its rejected one. `completion_mask` is 1 on the
    tokens that are scored: the answer with its stop token. `attention_mask` hides the padding token, whatever it is.
    The same of the mismatched answers is under "mismatched", if there are any; "scores" are float64 [2B], if there are,
    and "flip_rates" float64 [B].

    With `share_prompt`, row i holds prompt, chosen and rejected answer of pair i: "input_ids" and "attention_mask" are
    [B, T], and "completion_mask" is [2B, T] with the same meaning of its rows as above.
    """

    def __init__(self, pad_token_id: int, share_prompt: bool = False) -> None:
        self.pad_token_id = pad_token_id
        self.share_prompt = share_prompt

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = dict(self._padded(pairs, ""))
        if "mismatched_chosen_ids" in pairs[0]:
            batch["mismatched"] = self._padded(pairs, "mismatched_")
        if SCORES[0] in pairs[0]:
            batch["scores"] = torch.tensor([pair[name] for name in SCORES for pair in pairs], dtype=torch.float64)
        if FLIP_RATE in pairs[0]:
            batch["flip_rates"] = torch.tensor([pair[FLIP_RATE] for pair in pairs], dtype=torch.float64)
        return batch

    def length(self, pair: dict[str, Any], which: str = "") -> int:
        """Columns that a batch of this pair alone has; with `mismatched_` of its mismatched answers."""
        answers = [len(pair[f"{which}{side}"]) for side in ANSWERS]
        return len(pair["prompt_ids"]) + (sum(answers) if self.share_prompt else max(answers))

    def _padded(self, pairs: Sequence[dict[str, Any]], which: str) -> dict[str, Tensor]:
        sides = [[(pair["prompt_ids"], pair[f"{which}{side}"]) for pair in pairs] for side in ANSWERS]
        if not self.share_prompt:
            return pad_right([*sides[0], *sides[1]], self.pad_token_id)
        shared = [(prompt, chosen, rejected) for (prompt, chosen), (_, rejected) in zip(*sides, strict=True)]
        return pad_right_shared(shared, self.pad_token_id)
