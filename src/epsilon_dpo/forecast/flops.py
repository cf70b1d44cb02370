"""Floating-point operations, from sizes and lengths alone; what is computed twice is counted twice.

A token is multiplied with each weight of the projections: 2 FLOPs per weight forward and 4 backward, 6 N in all (Kaplan
et al. 2020, arXiv 2001.08361, section 2.1). Attention adds, per layer, the products of queries and keys and of weights
and values, 4 x width x length per token forward (Chowdhery et al. 2022, "PaLM", arXiv 2204.02311, appendix B), all of
the square: a mask saves nothing here. The output projection is counted apart, because only answers' tokens reach it.
"""

from typing import NamedTuple

from epsilon_dpo.forecast.architecture import Sizes
from epsilon_dpo.forecast.lengths import Form


class Products(NamedTuple):
    """How often a training step computes each part, in units of a forward pass.

    Attributes:
        projections, attention: of the layers.
        head: products with the output projection of answers' tokens.
    """

    projections: int
    attention: int
    head: int


def of_training(adapter: bool, checkpointed: bool, recomputed_attention: bool) -> Products:
    """Forward 1, backward 2: one by the weights, which an adapter's frozen ones do not need, one by the inputs.

    The head is computed forward, again backward, and has both products there (models/logps/kernel.py, TRL's alike).
    """
    again = int(checkpointed)
    return Products(
        projections=(2 if adapter else 3) + again,
        attention=3 + max(again, int(recomputed_attention)),
        head=3 if adapter else 4,
    )


def plus_references(own: Products, references: int, moving: bool, kl_gradient: bool) -> Products:
    """A reference runs forward once; of a moving one also its start, against which the policy is projected again."""
    return Products(
        projections=own.projections + references,
        attention=own.attention + references,
        head=own.head + references + int(moving) + int(kl_gradient),
    )


def flops(sizes: Sizes, form: Form, products: Products) -> float:
    """Of one text (a pair, or a sequence)."""
    return (
        products.projections * 2.0 * sizes.projections * form.tokens
        + products.attention * 4.0 * sizes.layers * sizes.attention * form.squares
        + products.head * 2.0 * sizes.vocabulary * sizes.hidden * form.scored
    )


def of_sampling(sizes: Sizes, prompt: float, new_tokens: float) -> float:
    """Of one answer: each token passes the layers once and sees all before it; each new one needs logits."""
    tokens = prompt + new_tokens
    return (
        2.0 * sizes.projections * tokens
        + 4.0 * sizes.layers * sizes.attention * (prompt**2 + new_tokens * (prompt + new_tokens / 2))
        + 2.0 * sizes.vocabulary * sizes.hidden * new_tokens
    )
