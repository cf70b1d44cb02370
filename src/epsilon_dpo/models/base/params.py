"""`base`: the model that SFT starts from, its tokenizer, its chat template and its stop token."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from epsilon_dpo.pipeline.stage.params import COMMIT, Seed, Strict

Size = Annotated[int, Field(ge=1, le=65_536)]


class EmbeddedModel(Strict):
    """A small Gemma-2-architecture model with random weights, and a BPE tokenizer trained on the training pairs."""

    source: Literal["embedded"]
    vocab_size: Annotated[int, Field(ge=270, le=1_000_000)]
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    num_key_value_heads: Size
    head_dim: Size
    initializer_range: Annotated[float, Field(gt=0.0)]
    max_position_embeddings: Size

    @model_validator(mode="after")
    def _heads_fit(self) -> "EmbeddedModel":
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads, which they share")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads, as transformers asks")
        if self.head_dim % 2:
            raise ValueError("head_dim must be even: rotary positions turn its dimensions two by two")
        return self


class PretrainedModel(Strict):
    """A causal language model from the Hub at a pinned commit, or from a local folder in the same format."""

    source: Literal["pretrained"]
    path: Annotated[str, Field(min_length=1)]  # Hub id or local folder
    revision: Annotated[str, Field(pattern=COMMIT)] | None  # null only for a local folder
    dtype: Literal["float32", "bfloat16"]
    chat_template: Literal["gemma", "own"]  # own: the tokenizer's; gemma-2-2b has none
    stop_token: str  # ends every answer; must be one token of the vocabulary
    pad_token: str | None = None  # for a tokenizer without one: a token that no text uses; null: the tokenizer's own
    bos: Literal["template", "prepend"] = "template"  # prepend: BOS first, for a template that forgets it


Base = Annotated[EmbeddedModel | PretrainedModel, Field(discriminator="source")]


class BaseView(Strict):
    """What stages/base.py reads."""

    seed: Seed
    base: Base
