"""Rows that come and go must draw what transformers' own loop draws for each."""

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
)

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.sampling.decoding import decoding
from epsilon_dpo.sampling.decoding.decoding import decode
from epsilon_dpo.sampling.decoding.noise import GumbelNoise

pytestmark = pytest.mark.numeric

STOP, LONGEST = 2, 24
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
LLAMA = SIZES | {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.15}


def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**LLAMA)).eval()


def drawn_prompts(count: int) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(5, 64) for _ in range(rng.randint(1, 30))] for _ in range(count)]


class InGenerate(LogitsProcessor):
    """The same noise within generate(), which keeps every row to the end."""

    def __init__(self, rows: int) -> None:
        self.noise, self.rows = GumbelNoise(list(range(rows)), 1.0), list(range(rows))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return self.noise(scores, self.rows)


def by_generate(model: Any, prompts: list[list[int]]) -> list[list[int]]:
    longest = max(map(len, prompts))
    padded = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    config = GenerationConfig(do_sample=False, max_new_tokens=LONGEST, eos_token_id=STOP, pad_token_id=0)
    rows = model.generate(
        input_ids=torch.tensor(padded),
        attention_mask=torch.tensor(mask),
        logits_processor=LogitsProcessorList([InGenerate(len(prompts))]),
        generation_config=config,
    )[:, longest:].tolist()
    return [row[: row.index(STOP) + 1] if STOP in row else row for row in rows]


def ours(model: PreTrainedModel, prompts: list[list[int]], batch_size: int) -> list[list[int]]:
    noise = GumbelNoise(list(range(len(prompts))), 1.0)
    found = dict(decode(model, prompts, noise, lambda ids: ids[-1] == STOP, LONGEST, batch_size))
    return [found[i] for i in range(len(prompts))]


@pytest.mark.parametrize("window", [5, 16, 4096])
def test_every_row_draws_what_generate_draws(tiny_gemma: Callable[..., Any], window: int) -> None:
    """Prompts shorter and longer than the sliding window, answers that cross it, rows that stop at any time."""
    model, prompts = tiny_gemma(initializer_range=0.15, sliding_window=window), drawn_prompts(40)
    expected = by_generate(model, prompts)
    assert len({len(tokens) for tokens in expected}) > 8
    for batch_size, count in ((1, 10), (11, 40), (100, 40)):  # a row that is alone tells nothing of the others
        assert ours(model, prompts[:count], batch_size) == expected[:count], batch_size


def test_an_architecture_without_windows() -> None:
    model, prompts = llama(), drawn_prompts(30)
    assert ours(model, prompts, 9) == by_generate(model, prompts)


def test_no_row_is_computed_after_its_stop_token(tiny_gemma: Callable[..., Any]) -> None:
    """Tokens computed: each prompt, padded among eight of like length, and each token drawn but the last."""
    model, prompts = tiny_gemma(initializer_range=0.15), drawn_prompts(64)
    shapes: list[tuple[int, int]] = []
    count = lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape))  # noqa: E731
    model.register_forward_pre_hook(count, with_kwargs=True)
    found = ours(model, prompts, 16)
    assert sum(rows for rows, columns in shapes if columns == 1) == sum(len(tokens) - 1 for tokens in found)
    read = sum(rows * columns for rows, columns in shapes if columns > 1)
    assert read < 1.2 * sum(map(len, prompts))
    assert max(rows for rows, _ in shapes) <= 16


def test_a_model_with_another_past_is_refused() -> None:
    model = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2)).eval()
    with pytest.raises(UserError, match=r"MambaForCausalLM keeps a .* choose a model with attention alone"):
        ours(model, drawn_prompts(3), 2)


@pytest.mark.parametrize("after", [0, 3])
def test_logits_that_are_no_numbers_end_the_sampling(
    tiny_gemma: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """argmax takes NaN for the highest: the rest of the answer would be token 0, judged and scored."""
    of_model, calls = decoding._logits, iter(range(100))

    def broken(*arguments: Any) -> torch.Tensor:
        logits = of_model(*arguments)
        if next(calls) >= after:
            logits[-1, 7] = math.nan
        return logits

    monkeypatch.setattr(decoding, "_logits", broken)
    with pytest.raises(UserError, match="the policy's logits are no finite numbers"):
        ours(tiny_gemma(initializer_range=0.15), drawn_prompts(4), 4)
