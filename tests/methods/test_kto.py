"""KTO on the worked example F1, whose four answers to other prompts have log-ratios .6, -.3, .7, .9 (mean .475)."""

from dataclasses import replace

import pytest
import torch

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.kto import kto_losses
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError

ENTRY = {"method": "kto", "beta": 0.1}
F1_LOGRATIOS = [0.6, -1.8, -0.8, 0.9]  # w1, w2, l1, l2
F1_DESIRABLE = torch.tensor([True, True, False, False])


def test_worked_example(holds_on_f1):
    """As TRL's KTOTrainer gives it; the loss of a pair is the mean of those of its two answers."""
    assert method_of("k", ENTRY).mismatched
    found = holds_on_f1(
        ENTRY,
        [(0.4968750407 + 0.4681681106) / 2, (0.5566309599 + 0.5106234010) / 2],
        0.5080743781,
        [-0.0062497559, -0.0061698234],
        [0.0062246683, 0.0062471786],
        mean_mismatched=0.475,
    )
    assert found.metrics["kl"].tolist() == pytest.approx([0.475, 0.475])
    assert found.metrics["kl"].dtype == found.losses.dtype and not found.metrics["kl"].requires_grad
    assert found.chosen_rewards.tolist() == pytest.approx([0.06, -0.18], rel=1e-5)
    assert found.rejected_rewards.tolist() == pytest.approx([-0.08, 0.09], rel=1e-5)


def test_worked_example_unrolled():
    losses = kto_losses(torch.tensor(F1_LOGRATIOS, dtype=torch.float64), F1_DESIRABLE, 0.475, 0.1)
    assert losses.tolist() == pytest.approx([0.4968750407, 0.5566309599, 0.4681681106, 0.5106234010], abs=1e-10)


@pytest.mark.parametrize(("sides", "z0"), [((0.15, 0.8), 0.475), ((0.8, -0.2), 0.3), ((-0.5, 0.1), 0.0)])
def test_the_reference_point_is_the_mean_of_both_sides_floored_at_zero(f1, sides, z0):
    chosen, rejected = (replace(side, mean_mismatched=m) for side, m in zip(f1(), sides, strict=True))
    assert method_of("k", ENTRY).loss(chosen, rejected).metrics["kl"].tolist() == pytest.approx([z0, z0], abs=1e-12)


def test_a_negative_estimate_counts_as_no_divergence(holds_on_f1):
    holds_on_f1(ENTRY, None, 0.5080947188, None, None, mean_mismatched=-0.3)


def test_weights_scale_their_class(f1):
    one = kto_losses(torch.tensor(F1_LOGRATIOS), F1_DESIRABLE, 0.475, 0.1)
    weighted = kto_losses(torch.tensor(F1_LOGRATIOS), F1_DESIRABLE, 0.475, 0.1, 1.33, 0.5)
    torch.testing.assert_close(weighted, one * torch.tensor([1.33, 1.33, 0.5, 0.5]))
    chosen, rejected = f1(mean_mismatched=0.475)
    entry = {**ENTRY, "desirable_weight": 2.0, "undesirable_weight": 0.0}
    losses = method_of("k", entry).loss(chosen, rejected).losses
    assert losses.tolist() == pytest.approx([0.4968750407, 0.5566309599], abs=1e-10)  # 2 times one of two examples


@pytest.mark.parametrize("desirable", [True, False])
@pytest.mark.parametrize("size", [1, 4])
def test_batches_of_one_class(desirable, size):
    logratios = torch.tensor(F1_LOGRATIOS[:size], requires_grad=True)
    losses = kto_losses(logratios, torch.full((size,), desirable), 0.475, 0.1)
    losses.mean().backward()
    # Both branches of the loss exist for every example, and only that of its class may reach the gradient.
    expected = torch.sigmoid(0.1 * (logratios.detach() - 0.475) * (-1 if desirable else 1))
    torch.testing.assert_close(losses.detach(), expected)
    slope = 0.1 * expected * (1 - expected) / size
    torch.testing.assert_close(logratios.grad, -slope if desirable else slope)


def test_the_sign_of_simpo_s_table_would_push_rejected_answers_up(f1):
    chosen, rejected = f1(mean_mismatched=0.475)
    method_of("k", ENTRY).loss(chosen, rejected).losses.mean().backward()
    assert (chosen.policy.grad < 0).all() and (rejected.policy.grad > 0).all()  # descent lowers the rejected
    chosen, rejected = f1()
    table = torch.sigmoid(0.1 * (0.475 - rejected.logratios)) - torch.sigmoid(0.1 * (chosen.logratios - 0.475))
    table.mean().backward()
    assert (chosen.policy.grad < 0).all() and (rejected.policy.grad < 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_and_empty_answers_stay_finite(dtype):
    far = Logps(
        torch.tensor([-5e4], dtype=dtype, requires_grad=True),
        torch.tensor([9]),
        torch.tensor([0.0], dtype=dtype),
        mean_mismatched=3.0,
    )
    empty = Logps(
        torch.tensor([0.0], dtype=dtype, requires_grad=True),
        torch.tensor([0]),
        torch.tensor([0.0], dtype=dtype),
        mean_mismatched=3.0,
    )
    losses = method_of("k", {"method": "kto", "beta": 1.0}).loss(far, empty).losses
    losses.sum().backward()
    assert losses.item() == pytest.approx((1.0 + 1 / (1 + 2.718281828459045**3)) / 2)
    assert far.policy.grad.item() == 0.0 and 0.0 < empty.policy.grad.item() < 0.25


def test_a_step_of_nan_is_not_taken_for_no_divergence(f1):
    chosen, rejected = f1(mean_mismatched=float("nan"))
    assert method_of("k", ENTRY).loss(chosen, rejected).losses.isnan().all()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"beta": 0.0}, r"runs\.k\.beta = 0.0 is refused"),
        ({"desirable_weight": -1.0}, r"runs\.k\.desirable_weight = -1.0 is refused"),
        ({"desirable_weight": 0.0, "undesirable_weight": 0.0}, "both 0, so no example counts"),
    ],
)
def test_meaningless_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("k", {**ENTRY, **config})
