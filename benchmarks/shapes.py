"""Sizes of Gemma-2 models, and the arithmetic that a step on them needs at least."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from pair_lengths import Lengths


@dataclass(frozen=True)
class Shape:
    """Sizes of a Gemma-2 with tied embeddings, named as in Gemma2Config."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int

    def changed(self, **sizes: int | None) -> "Shape":
        return replace(self, **{name: size for name, size in sizes.items() if size is not None})

    def config(self) -> dict[str, Any]:
        return asdict(self) | {"query_pre_attn_scalar": self.head_dim}

    @property
    def body(self) -> int:
        """Weights of the layers that multiply every token: all but embeddings and norms."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_attention_heads + self.num_key_value_heads)
        return self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def head(self) -> int:
        return self.vocab_size * self.hidden_size


PRESETS = {
    "small": Shape(32_000, 256, 1024, 4, 4, 2, 64),
    "gemma-2-2b": Shape(256_000, 2304, 9216, 26, 8, 4, 256),
    "tiny": Shape(500, 64, 128, 2, 4, 2, 16),
}


def real_tokens(variant: str, lengths: Lengths) -> int:
    """Of two rows per pair without padding; SFT trains on the chosen rows."""
    chosen, rejected = (sum(pair[0] + pair[side] for pair in lengths) for side in (1, 2))
    return chosen if variant == "trl_sft" else chosen + rejected


def useful_flops(variant: str, shape: Shape, lengths: Lengths) -> float:
    """FLOPs that `real_tokens` need: 2 per weight and token forward and 4 backward, and 2 for a reference.

    The head multiplies completion tokens alone, and nothing is counted twice that is computed twice. Attention's own
    products are left out, so that the share of the peak that is made of this is a lower bound.
    """
    chosen, rejected = (sum(pair[side] for pair in lengths) for side in (1, 2))
    completions = chosen if variant == "trl_sft" else chosen + rejected
    per_weight = 6.0 if variant == "trl_sft" else 8.0
    return per_weight * (shape.body * real_tokens(variant, lengths) + shape.head * completions)
