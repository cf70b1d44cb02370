"""SLiC-HF: the worked example, and the margin."""

import pytest
import torch

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError


def entry(**config):
    return {"method": "slic_hf", "delta": 1.0, "lam": 0.1, **config}


@pytest.mark.parametrize(
    ("reduction", "losses", "mean", "chosen_gradient"),
    [
        ("mean", [0.1250000000, 9.6375000000], 4.8812500000, [-0.0050000000, -0.5020833333]),
        ("sum", [1.25, 12.8], 7.0250000000, [-0.05, -0.55]),
        ("token_mean", None, 4.8838235294, [-0.1 / 34, -0.5 - 0.1 / 34]),
    ],
)
def test_worked_example(holds_on_f1, reduction, losses, mean, chosen_gradient):
    loss = holds_on_f1(entry(sft_reduction=reduction), losses, mean, chosen_gradient, [0.0, 0.5])
    assert loss.chosen_rewards.tolist() == [-12.5, -33.0] and loss.rejected_rewards.tolist() == [-14.0, -24.5]
    assert loss.metrics["slic_hf/active"].tolist() == [0.0, 1.0]
    nll = {"mean": [1.25, 1.375], "sum": [12.5, 33.0], "token_mean": [12.5 / 17, 33 / 17]}[reduction]
    assert loss.metrics["nll_loss"].tolist() == pytest.approx(nll) and not loss.metrics["nll_loss"].requires_grad


@pytest.mark.parametrize(
    ("delta", "losses", "chosen_gradient", "active"),
    [
        (2.0, [0.5, 10.5], [-0.5, -0.5], [1.0, 1.0]),
        (1.5, [0.0, 10.0], [0.0, -0.5], [0.0, 1.0]),  # the first pair has exactly the margin
    ],
)
def test_the_margin_is_in_nats_per_answer(holds_on_f1, delta, losses, chosen_gradient, active):
    gradients = chosen_gradient, [-g for g in chosen_gradient]
    loss = holds_on_f1(entry(delta=delta, lam=0.0), losses, None, *gradients)
    assert loss.metrics["slic_hf/active"].tolist() == active


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_empty_pair_and_one_beyond_the_margin_without_reference(dtype):
    chosen = Logps(torch.tensor([0.0, -8.0], dtype=dtype, requires_grad=True), torch.tensor([0, 4]))
    rejected = Logps(torch.tensor([0.0, -20.0], dtype=dtype, requires_grad=True), torch.tensor([0, 5]))
    loss = method_of("x", entry()).loss(chosen, rejected)
    loss.losses.sum().backward()
    assert loss.losses.tolist() == pytest.approx([1.0, 0.1 * 2.0])
    assert loss.losses.dtype == loss.metrics["slic_hf/active"].dtype == dtype
    assert chosen.policy.grad.tolist() == pytest.approx([-1.1, -0.025])
    assert rejected.policy.grad.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"delta": 0.0}, r"runs\.x\.delta = 0.0 is refused: input should be greater than 0"),
        ({"lam": -0.1}, r"runs\.x\.lam = -0.1 is refused: input should be greater than or equal to 0"),
        ({"sft_reduction": "median"}, r"runs\.x\.sft_reduction = 'median' is refused: .*'token_mean'"),
        ({"beta": 0.1}, r"unknown key 'runs\.x\.beta'"),
    ],
)
def test_wrong_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("x", entry(**config))
