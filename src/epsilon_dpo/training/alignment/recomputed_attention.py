"""Attention whose weights are computed again in the backward pass instead of kept.

transformers' eager attention, the one that has Gemma-2's soft-cap on every device, keeps about five tensors of [rows,
heads, T, T] per layer for its gradient: on dialogues half of what a training step keeps. Here a layer keeps query, key
and value; the same operations run a second time backward, so that every value is the same, bit for bit.
"""

import inspect
import re
import sys
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

EAGER, NAME = "eager", "eager_recomputed"
ASKS = re.compile(r"_attn_implementation (==|in|not in) ")  # a comparison by != only asks whether it is eager


def recompute_attention(model: PreTrainedModel) -> None:
    """Let `model` recompute its attention if that is eager; others keep no weights in the first place.

    An architecture whose own code asks for the name of its attention would do something else under the new one, and
    keeps the plain form.
    """
    config = model.config.get_text_config()
    asks = ASKS.search(inspect.getsource(sys.modules[type(model).__module__]))
    if config._attn_implementation == EAGER and not asks:
        AttentionInterface.register(NAME, _attend)
        AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS[EAGER])
        config._attn_implementation = NAME


def _attend(module: nn.Module, *args: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """What the architecture's own file calls eager attention: it differs between architectures."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    found: tuple[Tensor, Tensor] = checkpoint(
        eager, module, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
    )
    return found
