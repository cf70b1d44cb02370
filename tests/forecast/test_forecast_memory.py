"""What a simulated step counts, against numbers by hand: parameters, states, checkpointing, FSDP's shares."""

from collections import Counter

import pytest
import torch
from forecast_sizes import SIZES
from transformers import Gemma2Config, LlamaConfig

from epsilon_dpo.forecast.architecture import Sizes, model_of, sizes_of
from epsilon_dpo.forecast.live import ACTIVATIONS, GRADIENTS, HEAD, REFERENCE, WEIGHTS, without_memory
from epsilon_dpo.forecast.memory import sharded, unsharded
from epsilon_dpo.forecast.simulation import How, References, Rows, Scored, Simulated, alignment_step
from epsilon_dpo.training.loop.params import LoRA

# Queries and output 2 x 32 x 32, keys and values 2 x 32 x 16, three sides of the MLP 32 x 64, four norms.
PROJECTIONS, NORMS = 3072 + 6144, 4 * 32
LAYER, EMBEDDINGS = PROJECTIONS + NORMS, 64 * 32
PARAMETERS = 2 * LAYER + EMBEDDINGS + 32
PAIRS = Rows(rows=3, columns=20, scored=24)
ADAPTER = LoRA(r=2, lora_alpha=4, lora_dropout=0.0, target_modules="all-linear", quantise=None)


def gemma(**changes: int) -> Gemma2Config:
    return Gemma2Config(**{**SIZES, **changes})


def how(**changes: object) -> How:
    plain = {
        "dtype": torch.float32,
        "autocast": False,
        "gradient_checkpointing": False,
        "lora": None,
        "accumulates": False,
        "device": "cuda",
    }
    return How(**{**plain, **changes})


def sizes(config: Gemma2Config) -> Sizes:
    with without_memory():
        return sizes_of(model_of(config, torch.float32))


def test_parameters_of_a_tiny_gemma() -> None:
    found = sizes(gemma())
    assert found.parameters == PARAMETERS == 20_768  # embeddings and output projection are one matrix
    assert found.projections == 2 * PROJECTIONS
    assert (found.largest_layer, found.outside_layers) == (LAYER, EMBEDDINGS + 32)
    assert (found.layers, found.vocabulary, found.hidden, found.attention, found.keys) == (2, 64, 32, 32, 16)
    assert found.largest_projection == 32 * 64 and found.eager


def test_an_output_projection_of_its_own_counts() -> None:
    found = sizes(LlamaConfig(**SIZES, tie_word_embeddings=False))
    assert found.parameters == 2 * (PROJECTIONS + 2 * 32) + 2 * EMBEDDINGS + 32
    assert found.projections == 2 * PROJECTIONS and not found.eager


@pytest.mark.parametrize("copies", [0, 1, 2])
def test_states_of_all_weights(copies: int) -> None:
    """Weights, gradients and references 4 bytes a parameter, AdamW 8."""
    memory = unsharded(alignment_step(gemma(), how(accumulates=True), PAIRS, Scored(References(copies), 512)))
    assert memory.gradients == 4 * PARAMETERS and memory.optimizer == 8 * PARAMETERS
    assert memory.reference == pytest.approx(copies * 4 * PARAMETERS, abs=400)  # rotary frequencies and masks
    assert memory.weights == pytest.approx(4 * PARAMETERS, abs=200)


def test_states_of_an_adapter() -> None:
    """Rank 2: queries and output 2 x 2 x 64, keys and values 2 x 2 x 48, the MLP 3 x 2 x 96, in each layer."""
    own = 2 * (2 * 128 + 2 * 96 + 3 * 192)
    memory = unsharded(alignment_step(gemma(), how(lora=ADAPTER), PAIRS, Scored(References(1, separate=False), 512)))
    assert memory.optimizer == 8 * own and memory.gradients <= 4 * own and memory.reference < 400
    assert memory.weights == pytest.approx(4 * (PARAMETERS + own), abs=200)
    bf16 = unsharded(
        alignment_step(gemma(), how(lora=ADAPTER, dtype=torch.bfloat16), PAIRS, Scored(References(0), 512))
    )
    assert bf16.weights == pytest.approx(2 * PARAMETERS + 4 * own, abs=200)  # the adapter stays float32


@pytest.mark.slow
def test_checkpointing_keeps_one_hidden_state_a_layer() -> None:
    """Korthikanti et al. 2022, section 5: s b h values a layer, here of 4 bytes."""
    settings, scored = how(gradient_checkpointing=True), Scored(References(0), 512)

    def kept(layers: int) -> int:
        step = alignment_step(gemma(num_hidden_layers=layers), settings, PAIRS, scored)
        return step.working_peak[ACTIVATIONS]  # while the last layer is computed again

    assert kept(5) - kept(4) == kept(4) - kept(3) == 4 * PAIRS.rows * PAIRS.columns * 32
    plain = alignment_step(gemma(num_hidden_layers=5), how(), PAIRS, scored)
    assert plain.working_peak[ACTIVATIONS] > 2 * kept(5)


@pytest.mark.slow
def test_the_head_holds_tiles_and_not_logits() -> None:
    """Twice the vocabulary adds its gradient, 4 bytes a weight, and less than a tile."""

    def at_the_head(vocabulary: int) -> int:
        rows = Rows(8, 128, 512)
        return alignment_step(gemma(vocab_size=vocabulary), how(device="cpu"), rows, Scored(References(1), 64)).peak[
            HEAD
        ]

    assert at_the_head(32_768) - at_the_head(16_384) == 4 * 16_384 * 32
    assert at_the_head(32_768) < 4 * 512 * 32_768 / 2


def test_autocast_keeps_copies_of_the_projections() -> None:
    """And the config is still that of the stages which do not train."""
    config = gemma()
    memory = unsharded(alignment_step(config, how(autocast=True), PAIRS, Scored(References(1), 512)))
    assert memory.other == 2 * 2 * PROJECTIONS
    assert (config._attn_implementation, config.dtype) == (gemma()._attn_implementation, None)


def test_what_several_gpus_share() -> None:
    """Four GPUs, bf16 over float32 masters, with a reference in bfloat16; a layer is gathered, and the next one, and
    both have gradients."""
    found = sizes(gemma())
    working = Counter({ACTIVATIONS: 1000, HEAD: 100, WEIGHTS: 1, REFERENCE: 1, GRADIENTS: 1})
    step = Simulated(Counter(), working, PARAMETERS, 2 * PARAMETERS)
    memory = sharded(step, found, 4, frozen=0, master=4, stored=2, compute=2, models=2)
    assert (memory.weights, memory.gradients, memory.optimizer) == (PARAMETERS, PARAMETERS, 2 * PARAMETERS)
    assert memory.reference == PARAMETERS / 2
    assert (memory.activations, memory.head) == (1000, 100)
    assert memory.other == 2 * (2 * (EMBEDDINGS + 32) + 4 * LAYER)


def test_gradients_of_ddp_are_there_twice() -> None:
    step = Simulated(Counter({WEIGHTS: 40, GRADIENTS: 40}), Counter(), 10, 40)
    assert unsharded(step, 2).other == 40 and unsharded(step, 1).other == 0
