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


def pad_right_shared(pairs: Sequence[tuple[Ids, Ids, Ids]], pad_token_id: int) -> dict[str, Tensor]:
    """(prompt, chosen, rejected ids) per row, the prompt once (see shared_prompt.py).

    "input_ids" and "attention_mask" are [rows, longest], "completion_mask" is [2 rows, longest]: 1 on the chosen
    answers in the first half, on the rejected ones in the second.
    """
    rows = pad_right([(prompt, np.concatenate([chosen, rejected])) for prompt, chosen, rejected in pairs], pad_token_id)
    chosen_mask = torch.zeros_like(rows["completion_mask"])
    for row, (prompt, chosen, _) in enumerate(pairs):
        chosen_mask[row, len(prompt) : len(prompt) + len(chosen)] = 1
    return {**rows, "completion_mask": torch.cat([chosen_mask, rows["completion_mask"] - chosen_mask])}
