"""Prompts and answers of unequal length as one batch of scored sequences."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Ids = list[int] | np.ndarray


def pad_right(sequences: Sequence[tuple[Ids, Ids]], pad_token_id: int) -> dict[str, Tensor]:
    """(prompt ids, answer ids) per row as {"input_ids", "attention_mask", "completion_mask"}, int64 [rows, longest].

    `completion_mask` is 1 on the tokens that are scored: the answer with its stop token. `attention_mask` hides the
    padding, whatever its id is.
    """
    longest = max(len(prompt) + len(answer) for prompt, answer in sequences)
    input_ids = torch.full((len(sequences), longest), pad_token_id, dtype=torch.long)
    attention_mask, completion_mask = torch.zeros(2, *input_ids.shape, dtype=torch.long)
    for row, (prompt, answer) in enumerate(sequences):
        end = len(prompt) + len(answer)
        input_ids[row, :end] = torch.as_tensor(np.concatenate([prompt, answer]))
        attention_mask[row, :end] = 1
        completion_mask[row, len(prompt) : end] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask, "completion_mask": completion_mask}
