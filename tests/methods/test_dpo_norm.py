"""Length-normalised DPO on the worked example F1, where the lengths turn the log-ratios into round numbers.

Log-ratios (.6, -1.8) over 10 and 24 tokens are (.06, -.075) per token, (-.8, .9) over 8 and 20 are (-.1, .045). Times
beta = 5 the differences are .8 and -.6: losses log(1 + exp(-.8)) and log(1 + exp(.6)).
"""

import math
from dataclasses import replace

import pytest
import torch

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError

ENTRY = {"method": "dpo_norm", "beta": 5.0}


def test_worked_example(holds_on_f1):
    chosen_gradient, rejected_gradient = [-0.0775063797, -0.0672558652], [0.0968829746, 0.0807070383]
    loss = holds_on_f1(ENTRY, [0.3711006659, 1.0374879505], 0.7042943082, chosen_gradient, rejected_gradient)
    assert loss.chosen_rewards.tolist() == pytest.approx([0.3, -0.375], rel=1e-5)
    assert loss.rejected_rewards.tolist() == pytest.approx([-0.5, 0.225], rel=1e-5)
    assert not loss.chosen_rewards.requires_grad and not loss.rejected_rewards.requires_grad


def test_a_smaller_beta(holds_on_f1):
    gradients = [-0.0420675748, -0.0233214021], [0.0525844685, 0.0279856825]
    holds_on_f1({**ENTRY, "beta": 2.0}, None, 0.6831114519, *gradients)


def test_answers_of_one_token_are_dpos(f1):
    chosen, rejected = (replace(side, tokens=torch.tensor([1, 1])) for side in f1())
    ours, dpo = (method_of("x", {**ENTRY, "method": name}).loss(chosen, rejected) for name in ("dpo_norm", "dpo"))
    torch.testing.assert_close(ours.losses, dpo.losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.chosen_rewards, dpo.chosen_rewards, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.rejected_rewards, dpo.rejected_rewards, rtol=1e-12, atol=0)


def test_it_compares_what_ipos_mean_form_compares(f1):
    """g = .16 and -.12: IPO's squared loss around its target is of the same number."""
    chosen, rejected = f1()
    loss = method_of("x", ENTRY).loss(chosen, rejected)
    g = (loss.chosen_rewards - loss.rejected_rewards) / ENTRY["beta"]
    assert g.tolist() == pytest.approx([0.16, -0.12], rel=1e-12)
    ipo = method_of("x", {"method": "ipo", "tau": 0.5}).loss(chosen, rejected)
    torch.testing.assert_close(ipo.losses, (g - 1.0) ** 2, rtol=1e-12, atol=0)


def test_equal_policy_and_reference_lose_log_two(f1):
    chosen, rejected = (replace(side, reference=side.policy.detach()) for side in f1())
    assert method_of("x", ENTRY).loss(chosen, rejected).losses.tolist() == pytest.approx([math.log(2.0)] * 2, rel=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_empty_answer_and_a_large_margin_stay_finite(dtype):
    zero = torch.zeros(1, dtype=dtype)
    chosen = Logps(torch.tensor([0.0], dtype=dtype).requires_grad_(), torch.tensor([0]), zero)
    rejected = Logps(torch.tensor([5e4], dtype=dtype).requires_grad_(), torch.tensor([1]), zero)
    method = method_of("x", {**ENTRY, "beta": 1.0})
    same, far = method.loss(chosen, chosen).losses, method.loss(chosen, rejected).losses
    (same + far).sum().backward()
    assert same.item() == pytest.approx(math.log(2.0)) and far.item() == 5e4
    assert chosen.policy.grad.tolist() == [-1.0] and rejected.policy.grad.tolist() == [1.0]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"beta": 0.0}, r"runs\.x\.beta = 0.0 is refused: input should be greater than 0"),
        ({"beta": 5.0, "label_smoothing": 0.1}, r"unknown key 'runs\.x\.label_smoothing'"),
    ],
)
def test_meaningless_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("x", {"method": "dpo_norm", **config})
