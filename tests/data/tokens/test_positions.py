"""How long a text may be, by a model's configuration."""

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, MambaConfig, Phi3Config, Phi3ForCausalLM, PreTrainedConfig

from epsilon_dpo.data.tokens.positions import positions_of

LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [9.0] * 4}
SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}


def long_rope() -> Phi3Config:
    lengths = {"original_max_position_embeddings": 16, "max_position_embeddings": 64}
    return Phi3Config(**SIZES, **lengths, rope_parameters=LONG, num_key_value_heads=4, vocab_size=64, pad_token_id=0)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (LlamaConfig(**SIZES, max_position_embeddings=64), "the 64 positions of the model"),
        (GPT2Config(n_positions=32), "the 32 positions of the model"),
        (MambaConfig(), "None"),
        (long_rope(), "the 16 positions up to which its LongRoPE turns all rows alike"),
    ],
)
def test_a_text_has_as_many_tokens_as_the_model_has_positions(config: PreTrainedConfig, said: str) -> None:
    assert str(positions_of(config)) == said


def test_beyond_them_a_row_depends_on_its_neighbours() -> None:
    """Which is why LongRoPE's texts end there; where this fails, transformers has changed and they need not."""
    torch.manual_seed(0)
    model = Phi3ForCausalLM(long_rope()).eval()
    rows = torch.randint(1, 64, (2, 17))
    alone, mask = model(rows[:1, :12]).logits, torch.ones_like(rows)
    mask[0, 12:] = 0
    for length, close in ((16, True), (17, False)):
        beside = model(rows[:, :length], attention_mask=mask[:, :length]).logits[:1, :12]
        assert torch.allclose(beside, alone, atol=1e-5) == close
