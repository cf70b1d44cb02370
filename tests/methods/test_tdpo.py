"""TDPO on the worked example F1 with K_w = (.6, 1.1) and K_l = (.9, .7), and the gradient of its KL in a model."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.models.logps.head import add_logps_head
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.training.alignment.pair_data import PairCollator
from epsilon_dpo.training.alignment.pair_logps import PairLogps
from epsilon_dpo.training.alignment.reference_model import SeparateModel

ONE = {"method": "tdpo", "beta": 0.1, "version": 1}
TWO = {"method": "tdpo", "beta": 0.1, "version": 2, "alpha": 0.5}
DPO = {"method": "dpo", "beta": 0.1}
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.fixture
def with_kls(f1):
    def make(dtype=torch.float64):
        chosen, rejected = f1(dtype)
        leaf = lambda values: torch.tensor(values, dtype=dtype).requires_grad_()  # noqa: E731
        return replace(chosen, kl_ref_policy=leaf([0.6, 1.1])), replace(rejected, kl_ref_policy=leaf([0.9, 0.7]))

    return make


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_version_2(with_kls, dtype):
    chosen, rejected = with_kls(dtype)
    loss = method_of("x", TWO).loss(chosen, rejected)
    loss.losses.mean().backward()
    same = lambda values: pytest.approx(values, rel=TOLERANCES[dtype], abs=TOLERANCES[dtype])  # noqa: E731
    assert loss.losses.tolist() == same([0.6325990353, 0.8259394199])
    assert loss.losses.mean().item() == same(0.7292692276)
    assert chosen.policy.grad.tolist() == same([-0.0234395313, -0.0281088250])
    assert rejected.policy.grad.tolist() == same([0.0234395313, 0.0281088250])
    assert rejected.kl_ref_policy.grad.tolist() == same([0.0117197657, 0.0140544125])
    assert chosen.kl_ref_policy.grad is None
    assert loss.chosen_rewards.tolist() == pytest.approx([0.06, -0.18], rel=1e-5)
    assert loss.rejected_rewards.tolist() == pytest.approx([-0.08, 0.09], rel=1e-5)
    assert not any(x.requires_grad for x in (loss.chosen_rewards, loss.rejected_rewards, *loss.metrics.values()))
    assert loss.metrics["tdpo/kl_chosen"].tolist() == pytest.approx([0.6, 1.1])
    assert loss.metrics["tdpo/kl_rejected"].tolist() == pytest.approx([0.9, 0.7])


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_version_1(with_kls, dtype):
    chosen, rejected = with_kls(dtype)
    loss = method_of("x", ONE).loss(chosen, rejected).losses.mean()
    loss.backward()
    same = lambda values: pytest.approx(values, rel=TOLERANCES[dtype], abs=TOLERANCES[dtype])  # noqa: E731
    assert loss.item() == same(0.7272020377)
    for gradient, sign in (
        (chosen.kl_ref_policy.grad, -1),
        (rejected.kl_ref_policy.grad, 1),
        (chosen.policy.grad, -1),
        (rejected.policy.grad, 1),
    ):
        assert (sign * gradient).tolist() == same([0.0236263848, 0.0278623927])


def test_alpha_0_is_dpo_bit_for_bit(with_kls):
    chosen, rejected = with_kls(torch.float32)
    nothing = method_of("x", {**TWO, "alpha": 0.0}).loss(chosen, rejected)
    assert torch.equal(nothing.losses, method_of("x", DPO).loss(chosen, rejected).losses)


def test_equal_kls_are_dpo(with_kls):
    chosen, rejected = with_kls()
    rejected = replace(rejected, kl_ref_policy=chosen.kl_ref_policy.detach())
    dpo = method_of("x", DPO).loss(chosen, rejected).losses
    for entry in (ONE, TWO):
        assert torch.equal(method_of("x", entry).loss(chosen, rejected).losses, dpo)


@pytest.mark.numeric
@pytest.mark.parametrize("entry", [ONE, TWO], ids=["version 1", "version 2"])
@pytest.mark.parametrize("share_prompt", [False, True])
def test_a_models_gradients_are_those_of_whole_logits(tiny_gemma, token_pairs, entry, share_prompt):
    """What the trainer computes tile by tile, against autograd on the logits of a plain forward pass."""
    policy, other = tiny_gemma(0).double(), tiny_gemma(1).double()
    pairs, beta = token_pairs(5), entry["beta"]
    rows = PairCollator(0)(pairs)
    mask = rows["completion_mask"][:, 1:]
    inputs = {name: rows[name] for name in ("input_ids", "attention_mask")}
    f = policy(**inputs).logits[:, :-1].log_softmax(-1)
    g = other(**inputs).logits[:, :-1].log_softmax(-1).detach()
    ratio = ((f - g).gather(-1, rows["input_ids"][:, 1:, None])[..., 0] * mask).sum(-1)
    kl = ((g.exp() * (g - f)).sum(-1) * mask).sum(-1)
    h, (kl_chosen, kl_rejected) = ratio[:5] - ratio[5:], kl.chunk(2)
    apart = kl_rejected - kl_chosen if entry is ONE else 0.5 * (kl_rejected - kl_chosen.detach())
    expected = -torch.nn.functional.logsigmoid(beta * (h - apart)).mean()
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in policy.named_parameters()}
    policy.zero_grad()

    for model in (policy, other):
        add_logps_head(model)
    method, accelerator = method_of("x", entry), Accelerator(cpu=True)
    scorer = PairLogps(method, SeparateModel(other, accelerator), None, 7, accelerator)
    batch = PairCollator(0, share_prompt)(pairs)
    chosen, rejected = scorer.score(policy, batch, {}, torch.Generator())
    loss = method.loss(chosen, rejected).losses.mean()
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)  # Gemma-2's norms are float32 in any model
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**ONE, "alpha": 0.5}, "version: 2 needs alpha"),
        ({"method": "tdpo", "beta": 0.1, "version": 2}, "version: 2 needs alpha"),
        ({**TWO, "alpha": -0.1}, r"runs\.x\.alpha = -0.1 is refused"),
        ({**TWO, "beta": 0.0}, r"runs\.x\.beta = 0.0 is refused"),
        ({**TWO, "version": 3}, r"runs\.x\.version = 3 is refused"),
    ],
)
def test_refused_values(entry, message):
    with pytest.raises(UserError, match=message):
        method_of("x", entry)
