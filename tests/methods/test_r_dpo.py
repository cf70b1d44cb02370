"""R-DPO on the worked example F1: h = (1.4, -2.7), and the chosen answers are longer by 2 and 4 tokens."""

from dataclasses import replace

import pytest
import torch

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError

ENTRY = {"method": "r_dpo", "beta": 0.1, "alpha": 0.05}


def test_worked_example(holds_on_f1):
    gradient = [-0.0220143175, -0.0258746429]
    loss = holds_on_f1(ENTRY, [0.5803299666, 0.7287595555], 0.6545447611, gradient, [-g for g in gradient])
    assert loss.chosen_rewards.tolist() == pytest.approx([0.06, -0.18], rel=1e-5)
    assert loss.rejected_rewards.tolist() == pytest.approx([-0.08, 0.09], rel=1e-5)
    assert not loss.chosen_rewards.requires_grad and not loss.rejected_rewards.requires_grad


def test_a_longer_chosen_answer_pulls_less_and_not_more(f1):
    """Exchanged lengths give what the wrong sign would give: a mean of .8144281894."""
    chosen, rejected = f1()
    exchanged = replace(chosen, tokens=rejected.tokens), replace(rejected, tokens=chosen.tokens)
    method = method_of("x", ENTRY)
    longer, shorter = method.loss(chosen, rejected).losses, method.loss(*exchanged).losses
    assert shorter.mean().item() == pytest.approx(0.8144281894, abs=1e-9)
    pull = [-torch.autograd.grad(losses.sum(), chosen.policy)[0] for losses in (longer, shorter)]
    assert (pull[0] < pull[1]).all() and (pull[0] > 0.0).all()


def test_alpha_zero_is_dpo_bit_for_bit(f1):
    chosen, rejected = f1(torch.float32)
    ours = method_of("x", {**ENTRY, "alpha": 0.0}).loss(chosen, rejected)
    dpo = method_of("x", {"method": "dpo", "beta": 0.1}).loss(chosen, rejected)
    assert torch.equal(ours.losses, dpo.losses) and torch.equal(ours.rejected_rewards, dpo.rejected_rewards)
    assert ours.metrics["r_dpo/length_dominates"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_size_of_the_length_term_is_logged(f1, dtype):
    """beta h = (.14, -.27) against alpha (-3, 3) = (-.15, .15): the lengths decide the first pair only."""
    chosen, rejected = f1(dtype)
    chosen = replace(chosen, tokens=torch.tensor([5, 23]))
    metrics = method_of("x", ENTRY).loss(chosen, rejected).metrics
    assert metrics["r_dpo/length_term"].tolist() == pytest.approx([-0.15, 0.15], rel=1e-6)
    assert metrics["r_dpo/length_term_abs"].tolist() == pytest.approx([0.15, 0.15], rel=1e-6)
    assert metrics["r_dpo/length_dominates"].tolist() == [1.0, 0.0]
    assert all(values.dtype == dtype and not values.requires_grad for values in metrics.values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_pair_whose_length_swamps_everything_stays_finite(dtype):
    def side(tokens):
        return Logps(torch.zeros(1, dtype=dtype).requires_grad_(), torch.tensor([tokens]), torch.zeros(1, dtype=dtype))

    method = method_of("x", {**ENTRY, "alpha": 1.0})
    for chosen, rejected, loss, gradient in ((side(0), side(2000), 2000.0, -0.1), (side(2000), side(0), 0.0, 0.0)):
        losses = method.loss(chosen, rejected).losses
        losses.sum().backward()
        assert losses.tolist() == [loss] and chosen.policy.grad.tolist() == pytest.approx([gradient], rel=1e-6)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"alpha": -0.05}, r"runs\.x\.alpha = -0.05 is refused: input should be greater than or equal to 0"),
        ({"alpha": 0.05, "beta": 0.0}, r"runs\.x\.beta = 0.0 is refused"),
        ({}, r"key 'runs\.x\.alpha' is missing"),
    ],
)
def test_meaningless_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("x", {"method": "r_dpo", "beta": 0.1, **config})
