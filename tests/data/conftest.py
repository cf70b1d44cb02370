"""What the tests of tokenisation and validation share: the embedded tokenizer, trained once on a few sentences."""

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from epsilon_dpo.models.base.embedded import train_tokenizer
from epsilon_dpo.models.base.params import EmbeddedModel

SENTENCES = [
    "user\n",
    "model\n",
    "Tell me about the Moon.",
    "What is a whale?",
    "Good question! It orbits the Earth.",
    "No.",
]


@pytest.fixture
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """Make the embedded Gemma-like tokenizer, attributes such as `chat_template` replaced as named."""

    def make(**changes: str) -> PreTrainedTokenizerFast:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.06}
        params = EmbeddedModel(source="embedded", vocab_size=400, max_position_embeddings=256, **sizes, **heads)  # type: ignore[arg-type]
        tokenizer = train_tokenizer(SENTENCES * 20, params)
        for name, value in changes.items():
            setattr(tokenizer, name, value)
        return tokenizer

    return make
