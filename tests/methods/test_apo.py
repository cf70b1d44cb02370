"""APO on the worked example F1, and its anchors: each answer alone against the reference."""

import pytest
import torch

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError

ZERO = {"method": "apo", "beta": 0.1, "variant": "zero"}
DOWN = {**ZERO, "variant": "down"}


def test_zero(holds_on_f1):
    losses, mean = [0.9650151582, 1.0673637172], 1.0161894377
    loss = holds_on_f1(ZERO, losses, mean, [-0.0124887567, -0.0123992943], [0.0124800213, 0.0124747216])
    assert loss.chosen_rewards.tolist() == pytest.approx([0.06, -0.18], rel=1e-5)
    assert loss.rejected_rewards.tolist() == pytest.approx([-0.08, 0.09], rel=1e-5)
    assert not loss.chosen_rewards.requires_grad and not loss.rejected_rewards.requires_grad


def test_down(holds_on_f1):
    holds_on_f1(DOWN, None, 1.0011332845, [0.0000498072, 0.0001243671], [0.0124389495, 0.0122749271])


def sides(chosen_ratio, rejected_ratio, dtype=torch.float64):
    one, zero = torch.tensor([1]), torch.zeros(1, dtype=dtype)
    return [
        Logps(torch.tensor([ratio], dtype=dtype).requires_grad_(), one, zero)
        for ratio in (chosen_ratio, rejected_ratio)
    ]


@pytest.mark.parametrize("entry", [ZERO, DOWN], ids=lambda entry: entry["variant"])
def test_equal_policy_and_reference(entry):
    """The loss is 1; `zero` pulls the answers apart with equal force, `down` leaves the chosen one where it is."""
    chosen, rejected = sides(0.0, 0.0)
    loss = method_of("x", entry).loss(chosen, rejected).losses
    loss.sum().backward()
    assert loss.item() == 1.0
    assert chosen.policy.grad.item() == pytest.approx({"zero": -0.025, "down": 0.0}[entry["variant"]], abs=1e-15)
    assert rejected.policy.grad.item() == pytest.approx(0.025)


def test_a_chosen_answer_far_below_the_reference_is_zeros_to_raise_and_downs_to_leave():
    for entry, sign in ((ZERO, -1.0), (DOWN, 1.0)):
        chosen, rejected = sides(-10.0, -100.0)
        method_of("x", entry).loss(chosen, rejected).losses.sum().backward()
        assert chosen.policy.grad.sign().item() == sign and rejected.policy.grad.item() >= 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("entry", [ZERO, DOWN], ids=lambda entry: entry["variant"])
def test_the_loss_lies_between_0_and_2(entry, dtype):
    for ratios in ((5e4, -5e4), (-5e4, 5e4), (5e4, 5e4)):
        chosen, rejected = sides(*ratios, dtype)
        loss = method_of("x", entry).loss(chosen, rejected).losses
        loss.sum().backward()
        assert 0.0 <= loss.item() <= 2.0
        assert chosen.policy.grad.isfinite().all() and rejected.policy.grad.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0.0}, r"runs\.x\.beta = 0.0 is refused: input should be greater than 0"),
        ({"variant": "up"}, r"runs\.x\.variant"),
    ],
)
def test_refused_values(change, message):
    with pytest.raises(UserError, match=message):
        method_of("x", {**ZERO, **change})
