"""SimPO on the worked example F1: mean log-probs (-1.25, -1.375) against (-1.75, -1.225)."""

from dataclasses import replace

import pytest
import torch

from epsilon_dpo.methods.interface import Logps, log_sigmoid
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError

ENTRY = {"method": "simpo", "beta": 2.5, "gamma": 1.375}


def test_worked_example(holds_on_f1):
    loss = holds_on_f1(
        ENTRY,
        [0.7575990353, 1.9102241504],
        1.3339115929,
        [-0.0664011717, -0.0443725418],
        [0.0830014646, 0.0532470501],
    )
    assert loss.chosen_rewards.tolist() == pytest.approx([-3.125, -3.4375], rel=1e-6)
    assert loss.rejected_rewards.tolist() == pytest.approx([-4.375, -3.0625], rel=1e-6)
    assert not loss.chosen_rewards.requires_grad and not loss.rejected_rewards.requires_grad


def test_there_is_no_reference_and_no_likelihood_term(f1):
    """The chosen answer is pulled exactly as hard as the rejected one is pushed, per token: an NLL would add to it."""
    method = method_of("x", ENTRY)
    assert not method.needs_reference
    chosen, rejected = (replace(side, reference=None) for side in f1())
    method.loss(chosen, rejected).losses.sum().backward()
    torch.testing.assert_close(chosen.policy.grad * chosen.tokens, -rejected.policy.grad * rejected.tokens)


def test_without_a_margin_and_with_equal_lengths_it_is_cpo_with_beta_over_the_length(f1):
    chosen, rejected = (replace(side, tokens=torch.tensor([8, 20])) for side in f1())
    losses = method_of("x", {**ENTRY, "gamma": 0.0}).loss(chosen, rejected).losses
    cpo = -log_sigmoid(2.5 / chosen.tokens.double() * (chosen.policy - rejected.policy))
    torch.testing.assert_close(losses, cpo, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("tokens", "x"), [((0, 4), 2.5 * 0.5 - 1.375), ((4, 0), -2.5 * 0.5 - 1.375)])
def test_an_empty_answer_scores_zero(dtype, tokens, x):
    def side(length):
        policy = torch.tensor([-2.0 if length else 0.0], dtype=dtype)
        return Logps(policy.requires_grad_(), torch.tensor([length]))

    chosen, rejected = side(tokens[0]), side(tokens[1])
    losses = method_of("x", ENTRY).loss(chosen, rejected).losses
    losses.sum().backward()
    assert losses.dtype == dtype
    assert losses.tolist() == pytest.approx([-log_sigmoid(torch.tensor(x)).item()], rel=1e-6)
    assert chosen.policy.grad.isfinite().all() and rejected.policy.grad.isfinite().all()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"beta": 2.5, "gamma": -0.5}, r"runs\.x\.gamma = -0.5 is refused: input should be greater than or equal to 0"),
        ({"beta": 0.0, "gamma": 0.5}, r"runs\.x\.beta = 0.0 is refused"),
        ({"beta": 2.5}, r"key 'runs\.x\.gamma' is missing"),
        ({"beta": 2.5, "gamma_beta_ratio": 0.5, "gamma": 0.5}, r"unknown key 'runs\.x\.gamma_beta_ratio'"),
    ],
)
def test_meaningless_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("x", {"method": "simpo", **config})
