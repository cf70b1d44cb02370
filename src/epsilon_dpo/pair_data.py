"""out/pairs/*.jsonl as batches: 2B rows for B pairs, the chosen ones first, padded on the right."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from epsilon_dpo.errors import UserError
from epsilon_dpo.outputs import read_jsonl
from epsilon_dpo.padding import pad_right

SIDES = ("prompt_ids", "chosen_ids", "rejected_ids")


class PairData(torch.utils.data.Dataset[dict[str, Any]]):
    """Token ids of preference pairs, 4 bytes each: {"prompt_ids", "chosen_ids", "rejected_ids"} as int32 arrays."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = [{side: np.asarray(row[side], dtype=np.int32) for side in SIDES} for row in rows]

    @classmethod
    def read(cls, path: Path) -> "PairData":
        """The pairs of a file of stage `pairs`.

        Raises:
            UserError: the file is empty.
        """
        rows = read_jsonl(path)
        if not rows:
            raise UserError(f"{path} holds no pair; check what stage validate dropped (out/validate/dropped.jsonl).")
        return cls(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


class PairCollator:
    """Rows of PairData as {"input_ids", "attention_mask", "completion_mask"}, int64 [2B, T] each.

    Row i is pair i with its chosen answer, row B+i the same pair with its rejected one. `completion_mask` is 1 on the
    tokens that are scored: the answer with its stop token. `attention_mask` hides the padding token, whatever it is.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        sides = [(pair["prompt_ids"], pair[side]) for side in ("chosen_ids", "rejected_ids") for pair in pairs]
        return pad_right(sides, self.pad_token_id)
