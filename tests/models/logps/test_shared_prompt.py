"""A pair in one row against the same pair in two: log-probs and gradients, by architecture and attention."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
)
from trl_trainers import float32_means_float64

from epsilon_dpo.models.logps import head as logps
from epsilon_dpo.models.logps.head import Scoring, add_logps_head
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.training.alignment import pair_logps
from epsilon_dpo.training.alignment.pair_data import PairCollator
from epsilon_dpo.training.alignment.pair_logps import check_shared_prompt

pytestmark = pytest.mark.numeric

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = {"sliding_window": 6}  # shorter than every row and than some prompts and answers
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, **WINDOW}
CONFIGS = {
    "gemma2": (Gemma2Config, GEMMA, "eager"),  # soft-capped: transformers refuses sdpa
    "gemma3": (Gemma3TextConfig, GEMMA, "sdpa"),  # other rotations where attention is local
    "llama": (LlamaConfig, {}, "eager"),
    "llama-sdpa": (LlamaConfig, {}, "sdpa"),
    "qwen2": (Qwen2Config, {"use_sliding_window": True, "max_window_layers": 2, **WINDOW}, "sdpa"),
    "mistral": (MistralConfig, WINDOW, "eager"),  # one mask for all layers
}


def made(config_of, changes, attention="eager"):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(**{**SIZES, **changes}), attn_implementation=attention).eval()
    add_logps_head(model)
    return model


def pairs_of(lengths):
    generator = torch.Generator().manual_seed(1)
    draw = lambda count: torch.randint(3, 64, (count,), generator=generator).tolist()  # noqa: E731
    return [
        {"prompt_ids": [1, *draw(prompt)], "chosen_ids": draw(chosen), "rejected_ids": draw(rejected)}
        for prompt, chosen, rejected in lengths
    ]


PAIRS = pairs_of([(5, 7, 3), (9, 0, 6), (2, 12, 11), (14, 4, 0), (0, 9, 9)])


def token_logps(model, pairs, share_prompt):
    """Of each answer's tokens, [N]: all chosen ones, then all rejected ones."""
    rows = PairCollator(0, share_prompt)(pairs)
    return model(**rows, scoring=Scoring(7)).policy[rows["completion_mask"][:, 1:].bool()]


@pytest.mark.parametrize("name", CONFIGS)
def test_one_row_is_two_in_values_and_gradients(name):
    model = made(*CONFIGS[name]).double()
    found, gradients = [], []
    with float32_means_float64():
        for share_prompt in (False, True):
            model.zero_grad()
            found.append(token_logps(model, PAIRS, share_prompt))
            weights = torch.randn(len(found[-1]), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
            (weights * found[-1]).sum().backward()
            gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-10)
    assert gradients[0]["model.layers.0.self_attn.q_proj.weight"].abs().max() > 0.1
    for parameter, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][parameter], gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["gemma2", "llama-sdpa"])
def test_a_rejected_answer_does_not_see_the_chosen_one(name):
    model = made(*CONFIGS[name])
    (pair,) = pairs_of([(4, 8, 6)])
    other = {**pair, "chosen_ids": [3 + (token - 2) % 61 for token in pair["chosen_ids"]]}
    with torch.no_grad():
        before, after = token_logps(model, [pair], True), token_logps(model, [other], True)
    assert torch.equal(before[8:], after[8:]) and (before[:8] != after[:8]).all()


def test_neighbours_and_padding_change_nothing():
    model = made(*CONFIGS["gemma2"]).double()
    with float32_means_float64(), torch.no_grad():
        alone = [token_logps(model, [pair], True) for pair in PAIRS]
        together = token_logps(model, PAIRS, True)
    sides = [[part[: len(p["chosen_ids"])], part[len(p["chosen_ids"]) :]] for part, p in zip(alone, PAIRS, strict=True)]
    torch.testing.assert_close(together, torch.cat([s[0] for s in sides] + [s[1] for s in sides]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_architectures_for_which_it_is_right_are_let_through(name):
    model = made(*CONFIGS[name]).train()
    check_shared_prompt(model, PAIRS[2])
    assert model.training


@pytest.mark.parametrize(("config", "changes"), [(BloomConfig, {"n_layer": 1, "n_head": 2}), (MambaConfig, {})])
def test_positions_by_column_and_recurrent_layers_are_refused(config, changes):
    with pytest.raises(UserError, match=r"align\.share_prompt: true is not exact for \w+ .*set it to false"):
        check_shared_prompt(made(config, changes), PAIRS[2])


@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids"])
def test_attention_that_ignores_the_mask_or_the_positions_is_refused(monkeypatch, ignored):
    whole = logps.shared_prompt_inputs
    part = lambda *args: {name: x for name, x in whole(*args).items() if name != ignored}  # noqa: E731
    monkeypatch.setattr(logps, "shared_prompt_inputs", part)
    with pytest.raises(UserError, match=r"LlamaForCausalLM with sdpa attention: .* differ by \d"):
        check_shared_prompt(made(*CONFIGS["llama-sdpa"]), PAIRS[2])


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError])
def test_too_little_memory_is_no_fault_of_the_architecture(monkeypatch, kind):
    """The sentence would have share_prompt set to false, which takes more memory."""

    def full(model, batch):
        raise kind("CUDA out of memory")

    monkeypatch.setattr(pair_logps, "_answers_logps", full)
    model = made(*CONFIGS["llama-sdpa"]).train()
    with pytest.raises(kind):
        check_shared_prompt(model, PAIRS[2])
    assert model.training


def test_what_autocast_rounds_is_no_difference(monkeypatch):
    """Under FSDP with align.bf16 the forward pass is in bfloat16 from the start, though the weights are float32.

    How much it rounds is the processor's, so the difference is added to float32's log-probs.
    """
    model, exact = made(*CONFIGS["llama-sdpa"]), pair_logps._answers_logps

    def differ_by(nats):
        rounded = lambda model, batch: exact(model, batch) + (nats if len(batch["input_ids"]) == 1 else 0.0)  # noqa: E731
        monkeypatch.setattr(pair_logps, "_answers_logps", rounded)

    differ_by(0.03)
    with pytest.raises(UserError, match=r"differ by 0\.03 nats"):
        check_shared_prompt(model, PAIRS[2])
    check_shared_prompt(model, PAIRS[2], autocast=True)
    differ_by(0.3)
    with pytest.raises(UserError, match=r"differ by 0\.3 nats"):
        check_shared_prompt(model, PAIRS[2], autocast=True)
