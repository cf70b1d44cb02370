"""RRHF: the worked example, the hinge's flat side and its kink."""

import pytest
import torch

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError


def entry(**config):
    return {"method": "rrhf", "lam": 0.5, **config}


@pytest.mark.parametrize(
    ("reduction", "losses", "mean", "chosen_gradient"),
    [
        ("mean", [0.6250000000, 0.8375000000], 0.7312500000, [-0.0250000000, -0.0312500000]),
        ("sum", [6.25, 16.65], 11.45, [-0.25, -0.2708333333]),
        ("token_mean", None, 0.7441176471, [-0.0147058824, -0.0355392157]),
    ],
)
def test_worked_example(holds_on_f1, reduction, losses, mean, chosen_gradient):
    loss = holds_on_f1(entry(sft_reduction=reduction), losses, mean, chosen_gradient, [0.0, 0.025])
    assert loss.chosen_rewards.tolist() == pytest.approx([-1.25, -1.375])
    assert loss.rejected_rewards.tolist() == pytest.approx([-1.75, -1.225])
    nll = {"mean": [1.25, 1.375], "sum": [12.5, 33.0], "token_mean": [12.5 / 17, 33 / 17]}[reduction]
    assert loss.metrics["nll_loss"].tolist() == pytest.approx(nll) and not loss.metrics["nll_loss"].requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_ties_and_empty_answers_have_no_ranking_gradient(dtype):
    # A chosen answer ahead per token though behind as a sum, a tie, and two empty answers; no reference at all.
    for policy, tokens, other, other_tokens in ((-20.0, 20, -12.0, 8), (-12.0, 8, -12.0, 8), (0.0, 0, 0.0, 0)):
        chosen = Logps(torch.tensor([policy], dtype=dtype, requires_grad=True), torch.tensor([tokens]))
        rejected = Logps(torch.tensor([other], dtype=dtype, requires_grad=True), torch.tensor([other_tokens]))
        loss = method_of("x", entry()).loss(chosen, rejected)
        loss.losses.sum().backward()
        assert loss.losses.dtype == dtype and loss.losses.item() == pytest.approx(-0.5 * policy / max(tokens, 1))
        assert chosen.policy.grad.item() == pytest.approx(-0.5 / max(tokens, 1)) and rejected.policy.grad.item() == 0


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"lam": -0.1}, r"runs\.x\.lam = -0.1 is refused: input should be greater than or equal to 0"),
        ({"lam": 1.0, "sft_reduction": "median"}, r"runs\.x\.sft_reduction = 'median' is refused: .*'token_mean'"),
        ({}, r"'runs\.x\.lam' is missing"),
    ],
)
def test_wrong_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("x", {"method": "rrhf", **config})
