"""RLOO on a worked example of one prompt with four answers, and on three answers whose best policy is known."""

from statistics import pstdev

import pytest
import torch
from online_examples import OPTIMA, answers_of, tabular_optimum

from epsilon_dpo.methods.online import Update
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.methods.rloo import leave_one_out
from epsilon_dpo.pipeline.observability.errors import UserError

ENTRY = {"method": "rloo", "beta": 0.05, "k": 4, "prompts_per_step": 1, "steps": 1, "max_new_tokens": 8}
SCORES, CHANGES = [1.0, 0.2, -0.5, 0.7], [2.0, -1.0, 0.5, 3.0]  # the log-ratios of whole answers
ADVANTAGES = [0.8083333333, -0.0583333333, -1.0916666667, 0.3416666667]


def update_of(log_ratios, advantages, requires_grad=True):
    """Answers of two tokens whose log-prob has changed by `log_ratios` since they were drawn."""
    now = torch.tensor([[x / 2, x / 2] for x in log_ratios], dtype=torch.float64).requires_grad_(requires_grad)
    old, mask = torch.zeros_like(now), torch.ones_like(now, dtype=torch.bool)
    return Update(now, old.detach(), mask, torch.tensor(advantages, dtype=torch.float64))


def test_the_advantages_are_the_worked_ones():
    """R = [.9, .25, -.525, .55], b = [.0916666667, .3083333333, .5666666667, .2083333333]; the sum is 0."""
    found = method_of("x", ENTRY).advantages(answers_of(SCORES, CHANGES)).advantages
    assert found.tolist() == pytest.approx(ADVANTAGES, rel=1e-9, abs=1e-10)
    assert found.sum().item() == pytest.approx(0.0, abs=1e-15)
    normalised = method_of("x", ENTRY | {"normalize_advantages": True}).advantages(answers_of(SCORES, CHANGES))
    expected = [0.9985860376, -0.0720629099, -1.3486058858, 0.4220827581]
    assert normalised.advantages.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-10)
    assert normalised.metrics["advantage_std"].tolist() == pytest.approx([pstdev(ADVANTAGES)] * 4, rel=1e-9)


def test_a_baseline_is_of_the_other_answers_of_its_prompt_alone():
    rewards = torch.tensor([1.0, 3.0, 10.0, 20.0], dtype=torch.float64)
    assert leave_one_out(rewards, 2).tolist() == [-2.0, 2.0, -10.0, 10.0]
    assert leave_one_out(rewards, 4).tolist() == pytest.approx([-10.0, 1 - 25 / 3, 2.0, 46 / 3])


def test_the_first_update_has_the_policy_gradient_and_no_loss():
    update = update_of([0.0] * 4, ADVANTAGES)
    loss = method_of("x", ENTRY).loss(update).losses.mean()
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-10)
    expected = [-0.2020833333, 0.0145833333, 0.2729166667, -0.0854166667]
    assert update.policy.grad[:, 0].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-10)
    assert torch.equal(update.policy.grad[:, 0], update.policy.grad[:, 1])  # of the answer: alike for its tokens


def test_the_second_update_is_clipped():
    update = update_of([0.3, -0.05, 0.1, 0.0], ADVANTAGES)
    found = method_of("x", ENTRY).loss(update)
    found.losses.mean().backward()
    assert found.losses.mean().item() == pytest.approx(-0.0124250078, rel=1e-8)
    expected = [0.0, 0.0138720958, 0.3016195631, -0.0854166667]
    assert update.policy.grad[:, 0].tolist() == pytest.approx(expected, rel=1e-8, abs=1e-10)
    assert found.metrics["clip_share"].tolist() == [1.0, 0.0, 0.0, 0.0]


def test_what_lies_beyond_an_answer_counts_for_nothing():
    whole = update_of([0.3, 0.1], [1.0, -1.0], requires_grad=False)
    wider = [
        torch.cat([x, torch.full((2, 1), 7.0 if x.dtype != torch.bool else 0.0).to(x)], 1) for x in whole_of(whole)
    ]
    method = method_of("x", ENTRY)
    assert torch.equal(method.loss(Update(*wider, whole.advantages)).losses, method.loss(whole).losses)


def whole_of(update):
    return update.policy, update.old_policy, update.mask


def test_an_answer_that_was_cut_pays_the_penalty():
    cut = answers_of([1.0, 1.0], [0.0, 0.0], ended=[True, False])
    found = method_of("x", ENTRY | {"k": 2, "truncation_penalty": 0.5}).advantages(cut).advantages
    assert found.tolist() == [0.5, -0.5]


@pytest.mark.parametrize("beta", OPTIMA)
def test_a_policy_of_three_answers_reaches_the_optimum(beta):
    """pi* = rho exp(r / beta) / Z, by this method's own advantages and losses."""
    entry = ENTRY | {"beta": beta, "k": 4, "prompts_per_step": 64}
    assert tabular_optimum(method_of("x", entry), 400) == pytest.approx(OPTIMA[beta], abs=0.02)


def test_one_answer_has_no_baseline():
    with pytest.raises(UserError, match=r"runs\.x\.k = 1 is refused"):
        method_of("x", ENTRY | {"k": 1})
