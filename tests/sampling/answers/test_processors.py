"""Top-p and the like must cut what transformers' own `generate` cuts, and leave what is neutral alone."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import GenerationConfig

from epsilon_dpo.sampling.answers.params import Logits, Sample, Sampler
from epsilon_dpo.sampling.answers.processors import ProcessedNoise
from epsilon_dpo.sampling.decoding.decoding import decode
from epsilon_dpo.sampling.decoding.noise import GumbelNoise

pytestmark = pytest.mark.numeric

STOP, LONGEST = 2, 20
NEUTRAL: dict[str, Any] = {"top_p": 1.0, "top_k": None, "min_p": None, "repetition_penalty": 1.0}


def prompts_of(count: int) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(5, 64) for _ in range(rng.randint(1, 30))] for _ in range(count)]


def by_generate(
    model: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> list[list[int]]:
    """`generate` with its own processors; only its draw is replaced, by one from the same distribution."""
    noise, rows = GumbelNoise(list(range(len(prompts))), 1.0), list(range(len(prompts)))
    monkeypatch.setattr(torch, "multinomial", lambda p, num_samples: noise(p.log(), rows).argmax(1, keepdim=True))
    longest = max(map(len, prompts))
    config = GenerationConfig(
        do_sample=True, max_new_tokens=LONGEST, eos_token_id=STOP, pad_token_id=0, **({"top_k": 0} | settings)
    )
    drawn = model.generate(
        input_ids=torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts]),
        attention_mask=torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
        generation_config=config,
    )[:, longest:].tolist()
    monkeypatch.undo()
    return [row[: row.index(STOP) + 1] if STOP in row else row for row in drawn]


@pytest.mark.parametrize(
    "settings",
    [
        {"top_p": 0.8},
        {"top_k": 5},
        {"min_p": 0.3},
        {"repetition_penalty": 1.7},
        {"top_k": 12, "top_p": 0.95, "min_p": 0.2, "repetition_penalty": 1.5},
    ],
    ids=lambda settings: "-".join(settings),
)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_answers_are_those_of_generate(
    tiny_gemma: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], temperature: float
) -> None:
    """Prompts of unlike lengths, rows that come and go; and what is asked for changes the answers."""
    model, prompts = tiny_gemma(initializer_range=0.15), prompts_of(24)
    expected = by_generate(model, prompts, monkeypatch, temperature=temperature, **settings)
    seeds = list(range(len(prompts)))

    def ours(**logits: Any) -> list[list[int]]:
        choose = ProcessedNoise(Logits(**NEUTRAL | logits), temperature, prompts, seeds)
        found = dict(decode(model, prompts, choose, lambda ids: ids[-1] == STOP, LONGEST, 7))
        return [found[i] for i in range(len(prompts))]

    assert ours(**settings) == expected
    plain = ours()
    assert sum(one != other for one, other in zip(plain, expected, strict=True)) > 4
    for name in settings:  # each of several is applied
        assert ours(**settings | {name: NEUTRAL[name]}) != expected


def test_nothing_that_was_cut_is_drawn() -> None:
    """softmax([3, 2, 1, 0]) = .64 .24 .09 .03, by hand: top_p .8 keeps two of them."""
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(400, 1)
    choose = ProcessedNoise(Logits(**NEUTRAL | {"top_p": 0.8}), 1.0, [[]] * 400, list(range(400)))
    scores = choose(logits, list(range(400)))
    assert (scores[:, 2:] == -torch.inf).all() and set(scores.argmax(1).tolist()) == {0, 1}
    share = (scores.argmax(1) == 0).double().mean().item()
    assert abs(share - 0.731) < 0.07  # .64 / (.64 + .24), three standard errors


def test_half_precision_is_cut_as_float32() -> None:
    """As `generate` does: a sum of probabilities in bfloat16 has two digits."""
    logits = torch.randn((1, 500), generator=torch.Generator().manual_seed(0), dtype=torch.float32).bfloat16()
    cut = Logits(**NEUTRAL | {"top_p": 0.6})
    found = [ProcessedNoise(cut, 0.7, [[]], [3])(scores, [0]) for scores in (logits, logits.float())]
    assert torch.equal(*found)


def test_what_is_neutral_is_not_in_use() -> None:
    assert Logits(**NEUTRAL).in_use() == Logits(**NEUTRAL | {"min_p": 0.0}).in_use() == {}
    all_four = {"top_p": 0.9, "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1}
    assert Logits(**all_four).in_use() == all_four


@pytest.mark.parametrize(
    ("name", "value"), [("top_p", 0.0), ("top_p", 1.1), ("top_k", 0), ("min_p", 1.1), ("repetition_penalty", 0.0)]
)
def test_a_value_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        Logits(**NEUTRAL | {name: value})


def test_what_vllm_does_in_another_order_is_refused() -> None:
    settings: dict[str, Any] = {"samples_per_prompt": 1, "temperature": 1.0, "max_new_tokens": 8, "batch_size": 4}
    settings |= {"backend": "vllm", "stop": {"tokens": [], "strings": []}}
    for cuts in ({"min_p": 0.1}, {"top_p": 0.9, "top_k": 5}):
        assert Sampler(**settings, logits=NEUTRAL | cuts)
    for other in ({"top_p": 0.9}, {"top_k": 5}):
        with pytest.raises(ValidationError, match="vLLM applies min_p before"):
            Sampler(**settings, logits=NEUTRAL | {"min_p": 0.1} | other)
        assert Sampler(**settings | {"backend": "transformers"}, logits=NEUTRAL | {"min_p": 0.1} | other)


def test_several_answers_that_would_all_be_one_are_refused() -> None:
    """Else the same answer is drawn and judged four times, and the best of four is no better than one."""
    settings: dict[str, Any] = {"samples_per_prompt": 4, "temperature": 1.0, "max_new_tokens": 8, "batch_size": 4}
    settings |= {"backend": "transformers", "stop": {"tokens": [], "strings": []}, "turns": "all", "max_prompts": None}
    settings |= {"logits": NEUTRAL}
    assert Sample(**settings)
    for greedy, which in (
        ({"temperature": 1.0e-9}, r"temperature 1\.0e-09"),
        ({"logits": NEUTRAL | {"top_k": 1}}, r"logits\.top_k 1"),
        ({"logits": NEUTRAL | {"min_p": 1.0}}, r"logits\.min_p 1\.0"),
    ):
        with pytest.raises(ValidationError, match=rf"greedy \({which}\), so that all 4 answers to a prompt are one"):
            Sample(**settings | greedy)
        assert Sample(**settings | greedy | {"samples_per_prompt": 1})


def test_a_temperature_that_vllm_would_change_is_refused() -> None:
    settings: dict[str, Any] = {"samples_per_prompt": 1, "max_new_tokens": 8, "batch_size": 4, "logits": NEUTRAL}
    settings |= {"stop": {"tokens": [], "strings": []}}
    for temperature in (1.0e-9, 0.01, 1.0):
        assert Sampler(**settings, temperature=temperature, backend="vllm")
    for temperature in (2.0e-9, 1.0e-3, 0.0099):
        assert Sampler(**settings, temperature=temperature, backend="transformers")
        with pytest.raises(ValidationError, match=r"vLLM samples at 0\.01 in place of temperature .*write 1\.0e-09"):
            Sampler(**settings, temperature=temperature, backend="vllm")
    assert Sampler(**settings, temperature=2.5, backend="transformers")
    with pytest.raises(ValidationError, match="vLLM takes no temperature above 2; lower it, or backend: transformers"):
        Sampler(**settings, temperature=2.5, backend="vllm")
