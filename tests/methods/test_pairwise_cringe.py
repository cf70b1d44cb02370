"""Pairwise CRINGE on a worked example of two answers of three tokens, a vocabulary of five, and its binary limit."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError

CHOSEN = [[0.5, -0.2, 1, 0.3, 0], [1.1, 0.4, -0.6, 0.2, -1], [0, 0.9, 0.1, -0.4, 1.3]]
REJECTED = [[1, 0.2, -0.5, 2, 0.1], [0.3, 1.5, -1, 0, 0.9], [2.2, -0.3, 0.4, 1.1, -2]]
Y_CHOSEN, Y_REJECTED, OTHERS = [0, 1, 0], [3, 4, 0], [0, 1, 3]  # OTHERS: the likeliest tokens that are not Y_REJECTED
L_BINARY, MARGIN, GATE = 6.7674451482, -2.7954231143, 0.7104790000
DETACHED = [-0.25970088, 0, 0, 0.25970088, 0]  # d loss / d first row of REJECTED
DIFFERENTIATED = [-0.40478779, -0.06519175, -0.03237327, 0.56134074, -0.05898793]


def method(**config):
    return method_of("c", {"method": "pairwise_cringe", "alpha": 0.5, "k": 1, "b": -1, "tau": 2, **config})


def example(dtype=torch.float64):
    """The example as a batch of one, both of its logits as leaves, padded by two places."""
    sides, leaves = [], []
    for rows, y, others in ((CHOSEN, Y_CHOSEN, [1, 0, 1]), (REJECTED, Y_REJECTED, OTHERS)):
        logits = torch.tensor(rows, dtype=dtype, requires_grad=True)
        logps = logits.log_softmax(-1)
        tokens, alternatives = (pad(logps[range(3), ids], (0, 2))[None] for ids in (y, others))
        mask = torch.tensor([[True, True, True, False, False]])
        extra = {"policy_tokens": tokens, "alternative_tokens": alternatives, "mask": mask}
        sides.append(Logps(tokens.sum(-1), mask.sum(-1), mean_tokens=3.0, **extra))
        leaves.append(logits)
    return *sides, *leaves


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("gate_gradient", "gradient"), [(False, DETACHED), (True, DIFFERENTIATED)])
def test_worked_example(dtype, tolerance, gate_gradient, gradient):
    chosen, rejected, _, x = example(dtype)
    loss = method(gate_gradient=gate_gradient, sft_reduction="sum").loss(chosen, rejected)
    loss.losses.sum().backward()
    assert (chosen.policy - rejected.policy).item() == pytest.approx(MARGIN, rel=tolerance)
    assert loss.losses.item() == pytest.approx(4.8081276614, rel=tolerance)
    assert {name: metric.item() for name, metric in loss.metrics.items()} == pytest.approx(
        {
            "nll_loss": 5.1984026667,
            "cringe_loss": 3.1380849631,
            "pairwise_cringe/gate": GATE,
            "pairwise_cringe/closed": 0.0,
        },
        rel=tolerance,
    )
    assert not any(x.requires_grad for x in (loss.chosen_rewards, loss.rejected_rewards, *loss.metrics.values()))
    # The specification prints eight decimals.
    assert x.grad[0].tolist() == pytest.approx(gradient, abs=max(tolerance, 6e-9))
    assert (loss.chosen_rewards - loss.rejected_rewards).item() == pytest.approx(MARGIN, rel=tolerance)


@pytest.mark.parametrize("reduction", ["mean", "token_mean"])
def test_the_reductions_divide_by_the_tokens_of_both_answers(reduction):
    loss = method(sft_reduction=reduction).loss(*example()[:2])
    assert loss.losses.item() == pytest.approx(0.8013546102, rel=1e-9)
    assert loss.metrics["cringe_loss"].item() == pytest.approx(3.1380849631 / 6, rel=1e-9)


def test_the_gates_gradient_is_the_one_by_hand():
    # d(g L)/d pi_w = -g - g (1 - g) L / tau, where L = -pi_w + ...; without the second term if the gate is a constant.
    for gate_gradient, expected in ((False, -GATE), (True, -GATE - GATE * (1 - GATE) * L_BINARY / 2)):
        chosen, rejected, *_ = example()
        losses = method(gate_gradient=gate_gradient, sft_reduction="sum").loss(chosen, rejected).losses
        assert torch.autograd.grad(losses, chosen.policy)[0].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("gate_gradient", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "token_mean"])
def test_an_open_gate_is_binary_cringe(gate_gradient, reduction):
    shared = {"alpha": 0.5, "k": 1, "sft_reduction": reduction}
    found = []
    for each in (
        method(b=1e6, gate_gradient=gate_gradient, **shared),
        method_of("b", {"method": "binary_cringe", **shared}),
    ):
        chosen, rejected, *leaves = example()
        chosen = replace(chosen, tokens=chosen.tokens + 4, mean_tokens=7.0)  # so that it matters whose tokens divide
        losses = each.loss(chosen, rejected).losses
        found.append((losses.detach(), *torch.autograd.grad(losses.sum(), leaves)))
    assert all(torch.equal(pairwise, binary) for pairwise, binary in zip(*found, strict=True))


@pytest.mark.parametrize(("above", "closed"), [(4.5, 0.0), (4.7, 1.0), (1e6, 1.0)])  # sigma(-4.595) = 0.01
def test_a_pair_with_a_wide_margin_is_closed(above, closed):
    chosen, rejected, *leaves = example(torch.float32)
    loss = method(b=MARGIN - 2 * above, gate_gradient=True).loss(chosen, rejected)
    loss.losses.sum().backward()
    assert loss.metrics["pairwise_cringe/closed"].item() == closed
    assert loss.metrics["pairwise_cringe/gate"].item() == pytest.approx(1 / (1 + math.exp(min(above, 700))), rel=1e-5)
    assert all(leaf.grad.isfinite().all() for leaf in leaves) and loss.metrics["nll_loss"].item() > 0.5


@pytest.mark.parametrize("reduction", ["mean", "sum", "token_mean"])
def test_an_empty_rejected_answer_leaves_the_gated_sft_term(reduction):
    chosen, _, *_ = example()
    none = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    extra = {"policy_tokens": none, "alternative_tokens": none, "mask": none > 0}
    empty = Logps(none.sum(-1), torch.tensor([0]), mean_tokens=0.0, **extra)
    loss = method(sft_reduction=reduction).loss(chosen, empty)
    pi = chosen.policy.item()
    expected = -pi / (1 + math.exp((1 + pi) / 2))
    assert loss.losses.item() == pytest.approx(expected if reduction == "sum" else expected / 3)
    loss.losses.sum().backward()
    assert not none.grad.any()


def test_it_asks_for_its_alternatives_and_for_no_reference():
    assert method(k=5).alternatives == 5 and not method().needs_reference


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"alpha": -0.1}, r"runs\.c\.alpha = -0.1 is refused"),
        ({"k": 0}, r"runs\.c\.k = 0 is refused"),
        ({"tau": 0.0}, r"runs\.c\.tau = 0.0 is refused"),
        ({"b": float("inf")}, r"runs\.c\.b = inf is refused"),
        ({"gate_gradient": 1}, r"runs\.c\.gate_gradient = 1 is refused"),
    ],
)
def test_meaningless_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method(**config)
