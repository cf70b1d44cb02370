"""WPO on the worked example F1, and its weights: constants that follow the policy, 1 for what it would itself say."""

import math
from dataclasses import replace

import pytest
import torch

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError

PLAIN = {"method": "wpo", "beta": 0.1, "weights": "plain"}
ALIGNED = {**PLAIN, "weights": "aligned"}
DPO_LOSSES, DPO_GRADIENT = [0.6255951823, 0.8372321351], [-0.0232528527, -0.0283546452]


def test_plain(holds_on_f1):
    """Weights exp(-1.25 - 1.75) and exp(-1.375 - 1.225)."""
    losses, gradient = [0.0311465501, 0.0621842265], [-0.0011576914, -0.0021060010]
    loss = holds_on_f1(PLAIN, losses, 0.0466653883, gradient, [-g for g in gradient])
    assert loss.metrics["wpo/weight"].tolist() == pytest.approx([0.0497870684, 0.0742735782], rel=1e-5)
    assert loss.chosen_rewards.tolist() == pytest.approx([0.06, -0.18], rel=1e-5)
    assert loss.rejected_rewards.tolist() == pytest.approx([-0.08, 0.09], rel=1e-5)
    assert not loss.chosen_rewards.requires_grad and not loss.metrics["wpo/weight"].requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_aligned(f1, dtype):
    """log sum pi^2 of -15 and -36 along the chosen, -16 and -20 along the rejected answers: per token .25 + .25 and
    .125 - .225, so the weights are exp(.5) and exp(-.1) of DPO."""
    chosen, rejected = f1(dtype)
    chosen = replace(chosen, log_sum_sq_probs=torch.tensor([-15.0, -36.0], dtype=dtype))
    rejected = replace(rejected, log_sum_sq_probs=torch.tensor([-16.0, -20.0], dtype=dtype))
    loss = method_of("x", ALIGNED).loss(chosen, rejected)
    loss.losses.mean().backward()
    weights, tolerance = [math.exp(0.5), math.exp(-0.1)], {"rel": 1e-9, "abs": 1e-9}
    if dtype == torch.float32:
        tolerance = {"rel": 1e-5, "abs": 1e-6}
    assert loss.metrics["wpo/weight"].tolist() == pytest.approx(weights, **tolerance)
    expected = [w * x for w, x in zip(weights, DPO_LOSSES, strict=True)]
    assert loss.losses.tolist() == pytest.approx(expected, **tolerance)
    gradient = [w * x for w, x in zip(weights, DPO_GRADIENT, strict=True)]
    assert chosen.policy.grad.tolist() == pytest.approx(gradient, **tolerance)
    assert rejected.policy.grad.tolist() == pytest.approx([-g for g in gradient], **tolerance)
    capped = method_of("x", {**ALIGNED, "max_weight": 1.0}).loss(chosen, rejected)
    assert capped.metrics["wpo/weight"].tolist() == pytest.approx([1.0, math.exp(-0.1)], **tolerance)
    assert capped.losses[0].item() == pytest.approx(DPO_LOSSES[0], **tolerance)


def test_only_aligned_asks_for_the_sum_of_squares(f1):
    assert method_of("x", ALIGNED).sum_sq_probs and not method_of("x", PLAIN).sum_sq_probs
    with pytest.raises(ValueError, match="log_sum_sq_probs"):
        method_of("x", ALIGNED).loss(*f1())


def test_a_uniform_policy_weighs_every_answer_alike():
    """V tokens of probability 1/V: log pi and log sum pi^2 are both -log V, so the pair counts as DPO's does."""
    tokens, vocab = torch.tensor([3, 7]), 50
    logps = (-math.log(vocab) * tokens.double()).requires_grad_()
    side = Logps(logps, tokens, torch.zeros(2, dtype=torch.float64), log_sum_sq_probs=logps.detach())
    assert method_of("x", ALIGNED).loss(side, side).metrics["wpo/weight"].tolist() == [1.0, 1.0]
    plain = method_of("x", PLAIN).loss(side, side).metrics["wpo/weight"].tolist()
    assert plain == pytest.approx([vocab**-2.0] * 2)


@pytest.mark.parametrize("weights", ["plain", "aligned"])
def test_no_gradient_reaches_a_weight(f1, weights):
    """A finite difference of the loss with the weights held."""
    method = method_of("x", {**PLAIN, "weights": weights})
    squares = torch.tensor([-15.0, -30.0], dtype=torch.float64)
    chosen, rejected = (replace(side, log_sum_sq_probs=squares.clone().requires_grad_()) for side in f1())
    loss = method.loss(chosen, rejected)
    loss.losses.sum().backward()
    held = loss.metrics["wpo/weight"]
    dpo, step = method_of("x", {"method": "dpo", "beta": 0.1}), 1e-5
    up, down = (
        held * dpo.loss(replace(chosen, policy=chosen.policy.detach() + s), rejected).losses for s in (step, -step)
    )
    assert chosen.policy.grad.tolist() == pytest.approx(((up - down) / (2 * step)).tolist(), rel=1e-8)
    assert chosen.log_sum_sq_probs.grad is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_an_empty_answer_and_a_hopeless_one_stay_finite(dtype):
    zero = torch.zeros(1, dtype=dtype)
    empty = Logps(zero.clone().requires_grad_(), torch.tensor([0]), zero, log_sum_sq_probs=zero)
    far = Logps(torch.full((1,), -5e4, dtype=dtype), torch.tensor([1]), zero, log_sum_sq_probs=zero)
    for entry in (PLAIN, ALIGNED):
        loss = method_of("x", entry).loss(empty, far)
        (loss.losses + method_of("x", entry).loss(empty, empty).losses).sum().backward()
        assert loss.losses.isfinite().all() and empty.policy.grad.isfinite().all()
        assert method_of("x", entry).log_weight(far).item() == -5e4  # of its one token


@pytest.mark.parametrize(("key", "value"), [("beta", 0.0), ("weights", "even"), ("max_weight", 0.0)])
def test_refused_values(key, value):
    with pytest.raises(UserError, match=rf"runs\.x\.{key} = {value!r} is refused"):
        method_of("x", {**PLAIN, key: value})
