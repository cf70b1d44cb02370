"""beta-DPO on five made-up margins, seen in two steps in a row: the fourth is an outlier and is filtered out."""

import json
import math

import pytest
import torch

from epsilon_dpo.methods.beta_dpo import batch_beta, drawing_weights, next_statistics, pairs_kept
from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError

M = torch.tensor([1.3, -2.0, 0.4, 3.1, -0.6], dtype=torch.float64)


def method(**config):
    return method_of("b", {"method": "beta_dpo", "beta": 0.1, "alpha": 0.6, "rho": 0.2, "momentum": 0.9, **config})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sides(margins):
    """Chosen and rejected with these log-ratio margins; the chosen's log-probs are the margins, gradient included."""
    zero, tokens = torch.zeros_like(margins), torch.ones(len(margins))
    return Logps(margins.clone().requires_grad_(), tokens, zero), Logps(zero.clone(), tokens, zero)


def test_worked_example_in_parts():
    m0, s0 = next_statistics(0.0, 0.0, M, 0.9)
    assert (m0, s0) == pytest.approx((0.044, 0.1926914632), abs=1e-10)
    m0, s0 = next_statistics(m0, s0, M, 0.9)
    assert (m0, s0) == pytest.approx((0.0836, 0.3661137801), abs=1e-10)
    weights = [4.0083129491e-03, 9.2647583443e-08, 6.8836822447e-01, 1.8193389397e-15, 1.7496332412e-01]
    assert drawing_weights(M, m0, s0, 4).tolist() == pytest.approx(weights, rel=1e-9)
    assert pairs_kept(5, 0.2) == 4
    assert batch_beta(0.1, 0.6, M[[0, 1, 2, 4]].mean().item(), m0) == pytest.approx(0.081484, abs=1e-12)
    assert batch_beta(0.1, 0.6, M.mean().item(), m0) == pytest.approx(0.121384, abs=1e-12)
    assert next_statistics(0.0, 0.0, M[:2], 0.5) == pytest.approx((-0.175, 1.65 / 2**0.5), rel=1e-12)  # of two pairs


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_worked_example_in_a_step(dtype, tolerance):
    """beta and losses as the released function gives them; the outlier is drawn with a probability below 1e-7."""
    beta_dpo = method()
    assert beta_dpo.looks_ahead
    beta_dpo.before_step(M, seeded())
    weights = beta_dpo.before_step(M, seeded())
    assert weights.tolist() == [1.25, 1.25, 1.25, 0.0, 1.25]
    chosen, rejected = sides(M.to(dtype))
    found = beta_dpo.loss(chosen, rejected)
    mean = (found.losses * weights.to(dtype)).mean()
    mean.backward()
    assert mean.item() == pytest.approx(0.7036015466, abs=tolerance)
    gradient = [-0.0096465330, -0.0110136233, -0.0100195236, 0.0, -0.0104344370]
    assert chosen.policy.grad.tolist() == pytest.approx(gradient, abs=tolerance)
    assert found.chosen_rewards.tolist() == pytest.approx((0.1 * M).tolist())  # beta0 and not the batch's beta
    assert not found.chosen_rewards.requires_grad
    row = {"beta_dpo/beta": 0.081484, "beta_dpo/m0": 0.0836, "beta_dpo/s0": 0.3661137801, "beta_dpo/kept_share": 0.8}
    assert beta_dpo.after_step(2, {}, None, None) == pytest.approx(row, abs=1e-10)


def test_a_first_step_of_equal_policy_and_reference():
    """The released code divides 0 by 0 here."""
    beta_dpo = method()
    weights = beta_dpo.before_step(torch.zeros(5, dtype=torch.float64), seeded())
    assert sorted(weights.tolist()) == [0.0, 1.25, 1.25, 1.25, 1.25]
    loss = beta_dpo.loss(*sides(torch.zeros(5)))
    assert loss.losses.tolist() == pytest.approx([math.log(2.0)] * 5)
    expected = {"beta_dpo/beta": 0.1, "beta_dpo/m0": 0.0, "beta_dpo/s0": 0.0, "beta_dpo/kept_share": 0.8}
    assert beta_dpo.after_step(1, {}, None, None) == expected


@pytest.mark.parametrize(
    ("margins", "s0", "k"),
    [
        ([0.0, 1e-8, 2e-7], 1e-7, 2),  # too little spread
        ([0.0, 50.0, 60.0], 1.0, 2),  # two weights underflow, so that one is left of the two to be drawn
        ([0.0, math.nan, 1.0], math.nan, 2),  # a diverged step: its loss is refused by the trainer with a sentence
    ],
)
def test_pairs_that_cannot_be_weighed_are_equally_likely(margins, s0, k):
    assert drawing_weights(torch.tensor(margins, dtype=torch.float64), 0.0, s0, k).tolist() == [1.0, 1.0, 1.0]


def test_as_many_weights_as_pairs_are_kept_choose_them():
    """exp(-50^2 / 2) and exp(-60^2 / 2) are 0 in float64: the two pairs near M0 are all that can be drawn."""
    margins = torch.tensor([50.0, 0.0, -60.0, 2.0], dtype=torch.float64)
    expected = [0.0, 1.0, 0.0, math.exp(-2.0)]
    assert drawing_weights(margins, 0.0, 1.0, 2).tolist() == pytest.approx(expected, rel=1e-12)


def test_a_diverged_step_reaches_the_loss():
    beta_dpo = method()
    beta_dpo.before_step(torch.tensor([0.0, math.nan, 1.0], dtype=torch.float64), seeded())
    assert beta_dpo.loss(*sides(torch.tensor([1.0]))).losses.isnan().all()


def test_a_step_of_one_pair():
    beta_dpo = method()
    assert beta_dpo.before_step(torch.tensor([2.0], dtype=torch.float64), seeded()).tolist() == [1.0]
    row = beta_dpo.after_step(1, {}, None, None)
    assert row["beta_dpo/m0"] == pytest.approx(0.2) and row["beta_dpo/s0"] == 0.0
    assert row["beta_dpo/beta"] == pytest.approx(0.1 * (1 + 0.6 * 1.8))


def test_beta_has_a_floor():
    beta_dpo = method(alpha=100.0, rho=0.0)
    beta_dpo.before_step(torch.tensor([-9.0, -11.0], dtype=torch.float64), seeded())
    assert beta_dpo.after_step(1, {}, None, None)["beta_dpo/beta"] == 1e-3


def test_without_adaptation_and_filter_it_is_dpo(f1):
    beta_dpo, chosen_and_rejected = method(alpha=0.0, rho=0.0), f1()
    weights = beta_dpo.before_step(torch.tensor([1.4, -2.7], dtype=torch.float64), seeded())
    ours = beta_dpo.loss(*chosen_and_rejected)
    dpo = method_of("d", {"method": "dpo", "beta": 0.1}).loss(*chosen_and_rejected)
    assert weights.tolist() == [1.0, 1.0] and torch.equal(ours.losses, dpo.losses)
    assert torch.equal(ours.chosen_rewards, dpo.chosen_rewards)
    assert torch.equal(ours.rejected_rewards, dpo.rejected_rewards)


def test_a_step_keeps_the_pairs_near_the_mean():
    """S0 is a tenth of the spread after one step, so that the pairs kept lie near M0 = 0."""
    margins = torch.linspace(-3.0, 3.0, 64, dtype=torch.float64)
    beta_dpo = method(rho=0.5)
    weights = beta_dpo.before_step(margins, seeded())
    assert weights.unique().tolist() == [0.0, 2.0] and weights.mean().item() == 1.0
    assert margins[weights > 0].abs().max() < 2.0


def test_the_draw_repeats_by_the_generator():
    margins = torch.linspace(-3.0, 3.0, 64, dtype=torch.float64)
    draws, betas = [], []
    for seed in (1, 1, 2):
        beta_dpo = method(rho=0.5, momentum=0.0)
        draws.append(beta_dpo.before_step(margins, seeded(seed)).tolist())
        betas.append(beta_dpo.after_step(1, {}, None, None)["beta_dpo/beta"])
        kept_mean = margins[torch.tensor(draws[-1]) > 0].mean().item()
        assert betas[-1] == pytest.approx(0.1 * (1 + 0.6 * kept_mean), abs=1e-15)
    assert draws[0] == draws[1] and betas[0] == betas[1]
    assert draws[0] != draws[2] and betas[0] != betas[2]


def test_evaluation_uses_beta0_and_leaves_the_state():
    beta_dpo = method()
    evaluated = sides(torch.tensor([30.0, -4.0]))
    before = beta_dpo.loss(*evaluated).losses
    beta_dpo.before_step(M, seeded())
    state = beta_dpo.state_dict()
    assert not torch.equal(beta_dpo.loss(*evaluated).losses, before)  # still inside the step
    beta_dpo.after_step(1, {}, None, None)
    assert torch.equal(beta_dpo.loss(*evaluated).losses, before)
    assert beta_dpo.state_dict() == state == {"m0": pytest.approx(0.044), "s0": pytest.approx(0.1926914632)}


def test_a_resumed_run_goes_on_as_the_first():
    first, resumed = method(), method()
    first.before_step(M, seeded())
    first.after_step(1, {}, None, None)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    following = M.flip(0) + 0.7
    assert torch.equal(first.before_step(following, seeded(2)), resumed.before_step(following, seeded(2)))
    row = first.after_step(2, {}, None, None)
    assert row == resumed.after_step(2, {}, None, None)
    fresh = method()
    fresh.before_step(following, seeded(2))
    assert fresh.after_step(1, {}, None, None)["beta_dpo/m0"] != row["beta_dpo/m0"]


@pytest.mark.parametrize(("rho", "n"), [(0.0, 2), (0.2, 2), (0.5, 2), (0.6, 3), (0.75, 4), (0.8, 5), (0.9, 10)])
def test_the_filter_leaves_a_pair_from_min_pairs_on(rho, n):
    """In floating point 5 * (1 - .8) and 10 * (1 - .9) are a little less than 1."""
    assert method(rho=rho).min_pairs == n


@pytest.mark.parametrize(("n", "rho", "kept"), [(10, 0.9, 1), (20, 0.8, 4), (99, 0.2, 79), (7, 0.0, 7), (3, 0.9, 1)])
def test_pairs_kept(n, rho, kept):
    assert pairs_kept(n, rho) == kept


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"beta": 5e-4}, r"runs\.b\.beta = 0.0005 is refused"),  # below the floor of a batch's beta
        ({"alpha": -0.1}, r"runs\.b\.alpha = -0.1 is refused"),
        ({"rho": 1.0}, r"runs\.b\.rho = 1.0 is refused"),
        ({"momentum": 1.0}, r"runs\.b\.momentum = 1.0 is refused"),
    ],
)
def test_meaningless_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method(**config)
