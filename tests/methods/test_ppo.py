"""PPO on a worked example of one answer of three tokens, and on three answers whose best policy is known."""

import math
from statistics import pstdev

import pytest
import torch
from online_examples import OPTIMA, tabular_optimum

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.online import Answers, Update
from epsilon_dpo.methods.ppo import adapted, advantages_and_returns, token_rewards, whitened
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError

ENTRY = {"method": "ppo", "beta": 0.05, "k": 1, "prompts_per_step": 1, "steps": 1, "max_new_tokens": 8}
POLICY, REFERENCE, VALUES = [-1.0, -0.5, -2.0], [-1.2, -0.4, -1.5], [0.3, 0.5, 0.4]
ADVANTAGES, RETURNS = [0.6638125, 0.49875, 0.625], [0.9638125, 0.99875, 1.025]
WHITENED = [0.7874219615, -1.1251299088, 0.3377079473]


def row(values):
    return torch.tensor([values], dtype=torch.float64)


def example(scores=(1.0,), ended=True):
    """The answer, then a place beyond its end where everything is wrong."""
    mask = torch.tensor([[True, True, True, False]])
    return Answers(
        torch.tensor(scores, dtype=torch.float64),
        row([*POLICY, 0.0]),
        row([*REFERENCE, 0.0]),
        mask,
        torch.tensor([ended]),
        row([*VALUES, 9.0]),
    )


def test_the_rewards_and_advantages_are_the_worked_ones():
    answers = example()
    rewards = token_rewards(answers.scores, answers.logratios, answers.mask, 0.05)
    assert rewards[0].tolist() == pytest.approx([-0.01, 0.005, 1.025, 0.0], rel=1e-9, abs=1e-15)
    advantages, returns = advantages_and_returns(rewards, answers.values, answers.mask, 1.0, 0.95)
    assert advantages[0].tolist() == pytest.approx([*ADVANTAGES, 0.0], rel=1e-9)
    assert returns[0].tolist() == pytest.approx([*RETURNS, 0.0], rel=1e-9)
    longest = (of_token[:, :3] for of_token in (rewards, answers.values, answers.mask))  # as long as the row
    assert torch.equal(advantages_and_returns(*longest, 1.0, 0.95)[0], advantages[:, :3])
    plain = method_of("x", ENTRY | {"whiten": False}).advantages(answers)
    assert torch.equal(plain.advantages, advantages) and torch.equal(plain.returns, returns)
    deltas, _ = advantages_and_returns(rewards, answers.values, answers.mask, 1.0, 0.0)
    assert deltas[0].tolist() == pytest.approx([0.19, -0.095, 0.625, 0.0], rel=1e-9)


@pytest.mark.parametrize(
    ("config", "ended", "advantages"),
    [
        # -.01 + .5 (.5) - .3 = -.06, .005 + .5 (.4) - .5 = -.295 and 1.025 - .4 = .625, each plus .5 (.8) of the next
        ({"gamma": 0.5, "lam": 0.8}, True, [-0.078, -0.045, 0.625]),
        # the last reward is .525, so that its step is .125: -.095 + .95 (.125) and .19 + .95 (.02375) before it
        ({"truncation_penalty": 0.5}, False, [0.2125625, 0.02375, 0.125]),
        ({"truncation_penalty": 0.5}, True, ADVANTAGES),
    ],
)
def test_discounts_and_the_penalty_of_a_cut_answer_reach_the_advantages(config, ended, advantages):
    found = method_of("x", ENTRY | {"whiten": False} | config).advantages(example(ended=ended))
    assert found.advantages[0].tolist() == pytest.approx([*advantages, 0.0], rel=1e-9)
    returns = [advantage + value for advantage, value in zip(advantages, VALUES, strict=True)]
    assert found.returns[0].tolist() == pytest.approx([*returns, 0.0], rel=1e-9)
    assert found.metrics["advantage_std"].tolist() == pytest.approx([pstdev(advantages)], rel=1e-9)


def test_advantages_are_whitened_by_the_unbiased_variance_of_all_tokens():
    found = method_of("x", ENTRY).advantages(example())
    assert found.advantages[0].tolist() == pytest.approx([*WHITENED, 0.0], rel=1e-9)
    assert found.metrics["advantage_std"].tolist() == pytest.approx([pstdev(ADVANTAGES)], rel=1e-9)
    alike = torch.full((2, 3), 0.25, dtype=torch.float64)
    assert whitened(alike, alike > 0.0).tolist() == [[0.0] * 3] * 2
    assert whitened(alike[:1, :1], alike[:1, :1] > 0.0).tolist() == [[0.0]]
    rows = torch.tensor([[1.0, 3.0], [5.0, 0.0]], dtype=torch.float64)
    together = whitened(rows, torch.tensor([[True, True], [True, False]]))
    assert together[0].tolist() == pytest.approx([-1.0, 0.0], rel=1e-8)
    assert together[1].tolist() == pytest.approx([1.0, 0.0], rel=1e-8)


def test_the_loss_and_its_gradients_are_the_worked_ones():
    policy, values = row([-0.7, -0.55, -1.7]).requires_grad_(), row([0.6, 0.45, 0.9]).requires_grad_()
    mask = torch.ones(1, 3, dtype=torch.bool)
    update = Update(policy, row(POLICY), mask, row(ADVANTAGES), values, row(VALUES), row(RETURNS))
    found = method_of("x", ENTRY).loss(update)
    found.losses.mean().backward()
    means = {name: values.mean().item() for name, values in found.metrics.items()}
    assert found.metrics["policy_loss"].tolist() == pytest.approx([-0.796575, -0.4744256755, -0.75], rel=1e-9)
    assert found.metrics["value_loss"].tolist() == pytest.approx([0.1075610176, 0.1505632812, 0.0903125], rel=1e-9)
    assert means == pytest.approx(
        {"policy_loss": -0.6736668918, "value_loss": 0.1161455996, "clip_share": 2 / 3}, rel=1e-9
    )
    assert found.losses.mean().item() == pytest.approx(-0.6620523319, rel=1e-9)
    assert policy.grad[0].tolist() == pytest.approx([0.0, -0.1581418918, 0.0], rel=1e-9)
    assert values.grad[0].tolist() == pytest.approx([0.0, -0.0182916667, 0.0], rel=1e-8)
    wider = method_of("x", ENTRY | {"value_clip": 0.4}).loss(update).metrics  # .6, .45 and .8 in the place of .9
    value_loss = [0.3638125**2 / 2, 0.54875**2 / 2, 0.225**2 / 2]
    assert wider["value_loss"].tolist() == pytest.approx(value_loss, rel=1e-9)
    assert torch.equal(wider["policy_loss"], found.metrics["policy_loss"])


def test_a_bad_answers_ratio_is_clipped_from_below_alone_and_a_value_that_left_its_return_counts_whole():
    """Ratios exp(.3), exp(-.05) and exp(-.3); of the values the second alone came nearer, by .4 where .2 count."""
    policy, values = row([-0.7, -0.55, -2.3]).requires_grad_(), row([0.0, 0.1, 1.5])
    against, returns = row([-advantage for advantage in ADVANTAGES]), row([1.0, 0.0, 1.0])
    mask = torch.ones(1, 3, dtype=torch.bool)
    found = method_of("x", ENTRY).loss(Update(policy, row(POLICY), mask, against, values, row(VALUES), returns))
    found.losses.sum().backward()
    policy_loss = [0.6638125 * math.exp(0.3), 0.49875 * math.exp(-0.05), 0.625 * 0.8]
    assert found.metrics["policy_loss"].tolist() == pytest.approx(policy_loss, rel=1e-9)
    assert policy.grad[0].tolist() == pytest.approx([*policy_loss[:2], 0.0], rel=1e-9)
    assert found.metrics["clip_share"].tolist() == [0.0, 0.0, 1.0]
    assert found.metrics["value_loss"].tolist() == pytest.approx([0.5, 0.5 * 0.3**2, 0.5 * 0.5**2], rel=1e-9)
    assert not any(values.requires_grad for values in found.metrics.values())


def test_a_loss_is_per_token_and_knows_only_tokens():
    method = method_of("x", ENTRY)
    answers = example()
    targets = method.advantages(answers)
    update = Update(
        answers.policy,
        answers.policy,
        answers.mask,
        targets.advantages,
        answers.values,
        answers.values,
        targets.returns,
    )
    assert len(method.loss(update).losses) == 3
    assert method.units(torch.tensor([3, 5])).tolist() == [3, 5]


def test_the_adaptive_beta_follows_the_kl_and_belongs_to_the_state():
    """A KL of 9 at a target of 6 is 50 % too high; the error is clipped at 20 %, and a tenth of it moves beta."""
    assert adapted(0.05, 9.0, 6.0) == pytest.approx(0.051, rel=1e-12)
    assert adapted(0.05, 5.4, 6.0) == pytest.approx(0.0495, rel=1e-12)
    assert adapted(0.05, 0.0, 6.0) == pytest.approx(0.049, rel=1e-12)
    method = method_of("x", ENTRY | {"adaptive_kl": 6.0})
    assert method.after_step(1, {"kl/rev": 9.0}) == {"ppo/beta": 0.05}
    assert method.after_step(2, {"kl/rev": 6.0}) == {"ppo/beta": pytest.approx(0.051)}
    resumed = method_of("x", ENTRY | {"adaptive_kl": 6.0})
    resumed.load_state_dict(method.state_dict())
    assert resumed.beta == method.beta != 0.05
    chosen = Logps(torch.tensor([-3.0]), torch.tensor([2.0]), reference=torch.tensor([-5.0]))
    rejected = Logps(torch.tensor([-5.0]), torch.tensor([2.0]), reference=torch.tensor([-3.0]))
    pairs = method.on_pairs().loss(chosen, rejected)
    assert pairs.chosen_rewards.item() == pytest.approx(2.0 * method.beta), "an evaluation speaks of the present beta"
    assert pairs.rejected_rewards.item() == pytest.approx(-2.0 * method.beta)
    assert pairs.losses.item() == pytest.approx(math.log1p(math.exp(-4.0 * method.beta)))
    fixed = method_of("x", ENTRY)
    assert fixed.after_step(1, {"kl/rev": 9.0}) == {} and fixed.state_dict() == {} and fixed.beta == 0.05
    fixed.load_state_dict({})
    with pytest.raises(ValueError, match="has no state"):
        fixed.load_state_dict(method.state_dict())


@pytest.mark.parametrize("beta", OPTIMA)
def test_a_policy_of_three_answers_reaches_the_optimum(beta):
    """pi* = rho exp(r / beta) / Z, by this method's own advantages and losses."""
    entry = ENTRY | {"beta": beta, "k": 4, "prompts_per_step": 64, "epochs": 2, "value_clip": 10.0}
    assert tabular_optimum(method_of("x", entry), 400) == pytest.approx(OPTIMA[beta], abs=0.02)


def test_minibatches_share_the_answers_evenly():
    entry = ENTRY | {"k": 2, "prompts_per_step": 6}
    assert method_of("x", entry | {"minibatches": 4, "epochs": 3}).updates == 12
    with pytest.raises(UserError, match=r"5 minibatches cannot share 6 prompts x 2 answers evenly"):
        method_of("x", entry | {"minibatches": 5})
