"""CPO: the worked example, and DPO where the reference is uniform."""

import pytest
import torch

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError


def entry(**config):
    return {"method": "cpo", "beta": 0.1, "lam": 1.0, **config}


@pytest.mark.parametrize(
    ("reduction", "losses", "mean", "chosen_gradient"),
    [
        ("mean", [1.8709570478, 2.5808650684], 2.2259110581, [-0.0731285077, -0.0558616905]),
        ("sum", [13.1209570478, 34.2058650684], 23.6634110581, [-0.5231285077, -0.5350283571]),
        ("token_mean", None, 2.2516463522, [-0.0525402724, -0.0644401218]),  # equals TRL's CPOTrainer
    ],
)
def test_worked_example(holds_on_f1, reduction, losses, mean, chosen_gradient):
    rejected_gradient = [0.0231285077, 0.0350283571]
    loss = holds_on_f1(entry(sft_reduction=reduction), losses, mean, chosen_gradient, rejected_gradient)
    assert loss.chosen_rewards.tolist() == pytest.approx([-1.25, -3.3])
    assert loss.rejected_rewards.tolist() == pytest.approx([-1.4, -2.45])
    nll = {"mean": [1.25, 1.375], "sum": [12.5, 33.0], "token_mean": [12.5 / 17, 33 / 17]}[reduction]
    assert loss.metrics["nll_loss"].tolist() == pytest.approx(nll) and not loss.metrics["nll_loss"].requires_grad


def test_without_sft_term_it_is_dpo_with_a_uniform_reference(holds_on_f1, f1):
    gradient = [-0.0231285077, -0.0350283571]
    loss = holds_on_f1(entry(lam=0.0), [0.6209570478, 1.2058650684], None, gradient, [-g for g in gradient])
    dtype = loss.losses.dtype
    uniform = torch.full((2,), -30.0, dtype=dtype)
    chosen, rejected = (Logps(side.policy, side.tokens, uniform) for side in f1(dtype))
    dpo = method_of("d", {"method": "dpo", "beta": 0.1}).loss(chosen, rejected)
    assert loss.losses.tolist() == pytest.approx(dpo.losses.tolist(), rel=1e-6 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_empty_answers_and_extreme_margins(dtype):
    chosen = Logps(torch.tensor([0.0, -5e4], dtype=dtype, requires_grad=True), torch.tensor([0, 100]))
    rejected = Logps(torch.tensor([0.0, -1.0], dtype=dtype, requires_grad=True), torch.tensor([0, 1]))
    losses = method_of("x", entry(beta=1.0, lam=0.5)).loss(chosen, rejected).losses
    losses.sum().backward()
    assert losses.dtype == dtype and losses.tolist() == pytest.approx([0.6931471806, 49999.0 + 250.0])
    assert chosen.policy.grad.tolist() == pytest.approx([-1.0, -1.005])
    assert rejected.policy.grad.tolist() == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"beta": 0.0}, r"runs\.x\.beta = 0.0 is refused: input should be greater than 0"),
        ({"lam": -0.1}, r"runs\.x\.lam = -0.1 is refused: input should be greater than or equal to 0"),
        ({"sft_reduction": "median"}, r"runs\.x\.sft_reduction = 'median' is refused: .*'token_mean'"),
    ],
)
def test_wrong_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("x", entry(**config))
