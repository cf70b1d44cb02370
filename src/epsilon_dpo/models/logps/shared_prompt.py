"""A pair as one row [prompt, chosen, rejected], so that the prompt which both answers share is run once.

Each answer must see what it would see in a row of its own: the prompt and itself, at the positions that follow the
prompt. So a rejected token's position is its column less the chosen answer's length, its mask hides the chosen answer,
sliding windows are measured in positions, and its first token is predicted by the last of the prompt. (The prompt sees
only itself in either form.) Then each state depends on the same values as in the plain form, and differs from it by
rounding alone.

The masks are made by transformers' own function for the attention of the model, one for each type of layer: right for
eager (soft-capped or not), sdpa and flex_attention. What goes by columns or reads no such mask (flash attention, ALiBi,
recurrent layers) would be wrong: `pair_logps.check_shared_prompt` compares both forms before a training starts.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

PROMPT, CHOSEN, REJECTED, PADDING = range(4)


class SharedPrompt(NamedTuple):
    """How B rows of T columns hold B pairs.

    Attributes:
        part: [B, T], PROMPT, CHOSEN, REJECTED or PADDING, in this order along a row.
        positions: [B, T], that a token would have in a row of its own answer; 0 for padding.
        predictors: [2B, T], the column of the token that precedes this one in a row of its own answer; the chosen
            answers first, as in `completion_mask`, and of use only where that is 1.
    """

    part: Tensor
    positions: Tensor
    predictors: Tensor


def shared_prompt(attention_mask: Tensor, completion_mask: Tensor) -> SharedPrompt:
    """Read the form off the masks of PairCollator: [B, T] and [2B, T]."""
    chosen, rejected = completion_mask.chunk(2)
    part = torch.where(attention_mask.bool(), CHOSEN * chosen + REJECTED * rejected, PADDING)  # the prompt is 0
    prompt_length, chosen_length = (part == PROMPT).sum(1, keepdim=True), chosen.sum(1, keepdim=True)
    columns = torch.arange(part.shape[1], device=part.device).expand_as(part)
    positions = (columns - rejected * chosen_length) * attention_mask
    starts = columns == prompt_length + chosen_length
    before_rejected = torch.where(starts, prompt_length, columns) - 1
    return SharedPrompt(part, positions, torch.cat([columns - 1, before_rejected]))


def shared_prompt_inputs(model: PreTrainedModel, form: SharedPrompt) -> dict[str, Any]:
    """The attention mask (one per type of layer, where the architecture has types) and positions of a forward pass.

    Raises:
        ValueError: the architecture has a type of layer that is not known here.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if getattr(config, "layer_types", None) is None:
        return {"attention_mask": _mask(model, form, window), "position_ids": form.positions}
    windows = {"full_attention": None, "sliding_attention": window}
    if unknown := set(config.layer_types) - windows.keys():
        raise ValueError(f"its layers are of type {', '.join(sorted(unknown))}")
    masks = {kind: _mask(model, form, windows[kind]) for kind in sorted(set(config.layer_types))}
    return {"attention_mask": masks, "position_ids": form.positions}


def _mask(model: PreTrainedModel, form: SharedPrompt, window: int | None) -> Any:
    """In the format of the model's attention: float, bool or block mask of [B, 1, T, T]."""
    part, positions, _ = form
    rows, columns = part.shape

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        found = (key <= query) & ((part[row, key] == PROMPT) | (part[row, key] == part[row, query]))
        return found if window is None else found & (positions[row, query] - positions[row, key] < window)

    config = model.config.get_text_config()
    return ALL_MASK_ATTENTION_FUNCTIONS[config._attn_implementation](
        batch_size=rows,
        q_length=columns,
        kv_length=columns,
        mask_function=sees,
        allow_is_causal_skip=False,
        dtype=model.dtype,
        device=part.device,
        config=config,
    )
