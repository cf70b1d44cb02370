"""How many positions a model has for a text."""

from dataclasses import dataclass

from transformers import PreTrainedConfig

from epsilon_dpo.pipeline.observability.errors import UserError


@dataclass(frozen=True)
class Positions:
    """How long a text may be.

    Attributes:
        count: in tokens.
        which: says more of them, in a message.
    """

    count: int
    which: str

    def __str__(self) -> str:
        return f"the {self.count} positions {self.which}"


def positions_of(config: PreTrainedConfig) -> Positions | None:
    """Those of a model's configuration; None: it names none.

    LongRoPE (Phi-3's and Phi-4's versions for 128k tokens) turns keys by other angles beyond the length of the first
    training, and transformers takes the longest row of a batch for all of them: what a row gets would depend on its
    neighbours, and an answer would go on over keys that were turned otherwise. So its texts end there.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return Positions(rope["original_max_position_embeddings"], "up to which its LongRoPE turns all rows alike")
    count = getattr(text, "max_position_embeddings", None)
    return None if count is None else Positions(count, "of the model")


def require_positions(config: PreTrainedConfig, name: str, length: int) -> None:
    """Before a model is trained or asked, since stage `check` may not know a model on the Hub. GPT-2's positions are a
    table: what lies beyond has no row.

    Args:
        name: the value of params.yaml that lets a text have `length` tokens.

    Raises:
        UserError: the model has fewer positions.
    """
    positions = positions_of(config)
    if positions is not None and length > positions.count:
        raise UserError(
            f"{name} = {length} exceeds {positions}; lower it in params.yaml, or take a model with more positions."
        )
