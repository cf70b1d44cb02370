import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from epsilon_dpo.errors import UserError
from epsilon_dpo.kl import answers_kl, summary

PROMPT, STOP, LENGTH = [1, 5, 3], 2, 3


def table(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """log-probs over the whole vocabulary before each token of `answer`, [tokens, vocabulary], float64, no batch."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1)


def naive(policy: Any, reference: Any, prompt: list[int], answer: list[int]) -> tuple[float, float]:
    pi, ref = table(policy, prompt, answer), table(reference, prompt, answer)
    words = torch.tensor(answer)[:, None]
    return (ref.exp() * (ref - pi)).sum().item(), (ref - pi).gather(1, words).sum().item()


@pytest.fixture
def models(tiny_gemma: Callable[..., Any]) -> tuple[Any, Any]:
    """Two soft-capped policies of a vocabulary of 6, far from each other."""
    return tiny_gemma(1, vocab_size=6), tiny_gemma(2, vocab_size=6)


def test_equals_float64_over_the_full_vocabulary(models: tuple[Any, Any]) -> None:
    answers = [([1, 3, 4], [5, 2]), ([1, 4], [3, 3, 4, 5, 1, 2]), ([1, 3, 3, 3, 5], [2]), ([1], [4, 4, 4])]
    wanted = [naive(*(model.double() for model in models), *answer) for answer in answers]
    policy, reference = (model.float() for model in models)
    for batch_size, token_chunk in ((1, 100), (3, 2), (4, 5)):
        found = answers_kl(policy, reference, answers, batch_size, token_chunk)
        assert [row["tokens"] for row in found] == [2, 6, 1, 3]
        assert [row["kl_fwd_rb"] for row in found] == pytest.approx([rb for rb, _ in wanted], rel=1e-4)
        assert [row["kl_fwd_mc"] for row in found] == pytest.approx([mc for _, mc in wanted], rel=1e-4, abs=1e-5)


def test_both_estimators_average_to_the_exact_kl(models: tuple[Any, Any]) -> None:
    """All answers of at most three tokens, each with the reference's probability; KL by its definition."""
    policy, reference = models
    answers = [
        list(tokens)
        for length in range(1, LENGTH + 1)
        for tokens in itertools.product(range(6), repeat=length)
        if STOP not in tokens[:-1] and (tokens[-1] == STOP or length == LENGTH)
    ]
    logp = {
        name: [table(model, PROMPT, x).gather(1, torch.tensor(x)[:, None]).sum().item() for x in answers]
        for name, model in (("pi", policy), ("ref", reference))
    }
    weights = torch.tensor(logp["ref"], dtype=torch.float64).exp()
    exact = (weights * (torch.tensor(logp["ref"]) - torch.tensor(logp["pi"]))).sum().item()
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-5) and exact > 0.1
    found = answers_kl(policy, reference, [(PROMPT, x) for x in answers], 64, 100)
    for name in ("kl_fwd_rb", "kl_fwd_mc"):
        values = torch.tensor([row[name] for row in found], dtype=torch.float64)
        assert (weights * values).sum().item() == pytest.approx(exact, rel=1e-4)
    assert min(row["kl_fwd_rb"] for row in found) >= 0.0 > min(row["kl_fwd_mc"] for row in found)


def test_a_policy_is_at_no_distance_from_itself(models: tuple[Any, Any]) -> None:
    found = answers_kl(models[0], models[0], [([1, 3], [4, 2]), ([1], [5, 5, 2])], 2, 100)
    assert [(row["kl_fwd_rb"], row["kl_fwd_mc"]) for row in found] == [(0.0, 0.0)] * 2


def records(*values: float) -> list[dict[str, float]]:
    return [{"kl_fwd_rb": value, "kl_fwd_mc": value - 1.0} for value in values]


def test_summary_by_hand() -> None:
    found = summary(records(1.0, 2.0, 3.0), 0.95)
    assert found["kl_fwd_rb"] == 2.0 and found["kl_fwd_mc"] == 1.0 and found["n"] == 3
    assert found["kl_fwd_rb_se"] == pytest.approx(3**-0.5)
    assert found["kl_fwd_rb_low"] == pytest.approx(2.0 - 1.959964 * 3**-0.5)


def test_a_negative_mean_is_a_bug_and_rounding_is_none() -> None:
    with pytest.raises(RuntimeError, match="negative"):
        summary(records(-0.2, 0.1), 0.95)
    assert summary(records(-1e-6, 0.0), 0.95)["kl_fwd_rb"] < 0.0


def test_a_diverged_policy_is_one_sentence() -> None:
    with pytest.raises(UserError, match="not finite"):
        summary(records(1.0, float("nan")), 0.95)
