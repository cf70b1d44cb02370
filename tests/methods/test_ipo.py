"""IPO on the worked example F1, whose margins are h = (1.4, -2.7); tau .1 makes the target 5."""

import pytest
import torch

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError

SUM = {"method": "ipo", "tau": 0.1, "reduction": "sum"}
MEAN = {"method": "ipo", "tau": 0.1}


def one_pair(tokens, dtype):
    """A pair (B = 1) with log-ratios 10 and 8 nats and answers of the given lengths; empty ones have 0 nats."""
    sides = []
    for nats, length in zip((10.0, 8.0), tokens, strict=True):
        policy = torch.tensor([nats if length else 0.0], dtype=dtype).requires_grad_()
        sides.append(Logps(policy, torch.tensor([length]), torch.zeros(1, dtype=dtype)))
    return sides


@pytest.mark.parametrize(
    ("entry", "losses", "mean", "chosen_gradient", "rejected_gradient", "rewards"),
    [
        # (1.4 - 5)^2 and (-2.7 - 5)^2
        (SUM, [12.96, 59.29], 36.125, [-3.6, -7.7], [3.6, 7.7], ([0.06, -0.18], [-0.08, 0.09])),
        # (.6/10 + .8/8 - 5)^2 and (-1.8/24 - .9/20 - 5)^2
        (
            MEAN,
            [23.4256, 26.2144],
            24.82,
            [-0.484, -0.2133333333],
            [0.605, 0.256],
            ([0.006, -0.0075], [-0.01, 0.0045]),
        ),
    ],
)
def test_worked_example(holds_on_f1, entry, losses, mean, chosen_gradient, rejected_gradient, rewards):
    loss = holds_on_f1(entry, losses, mean, chosen_gradient, rejected_gradient)
    assert loss.chosen_rewards.tolist() == pytest.approx(rewards[0], rel=1e-5)
    assert loss.rejected_rewards.tolist() == pytest.approx(rewards[1], rel=1e-5)
    assert not loss.chosen_rewards.requires_grad and not loss.rejected_rewards.requires_grad


@pytest.mark.parametrize(("entry", "h"), [(SUM, 5.0), (MEAN, 50.0)])
def test_the_margin_has_a_target_and_is_pulled_back_beyond_it(entry, h):
    """1/(2 tau) = 5 nats per answer, or 5 per token: here 50 for ten tokens. The margin of the rewards there is 1/2."""
    policy = torch.tensor([h, h + 1.0], dtype=torch.float64, requires_grad=True)
    zero, ten = torch.zeros(2, dtype=torch.float64), torch.tensor([10, 10])
    loss = method_of("x", entry).loss(Logps(policy, ten, zero), Logps(zero, ten, zero))
    loss.losses.sum().backward()
    assert loss.losses[0].item() == policy.grad[0].item() == 0.0 and policy.grad[1].item() > 0.0
    assert (loss.chosen_rewards - loss.rejected_rewards)[0].item() == 0.5


def test_rewards_rank_the_answers_as_the_loss_does():
    """10 nats over 100 tokens are less per token than 8 over 10, and more per answer."""
    mean, total = (method_of("x", entry).loss(*one_pair((100, 10), torch.float64)) for entry in (MEAN, SUM))
    assert mean.chosen_rewards < mean.rejected_rewards and total.chosen_rewards > total.rejected_rewards
    assert mean.losses.item() == pytest.approx(5.7**2) and total.losses.item() == pytest.approx(3.0**2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("tokens", "loss"), [((0, 4), (-2.0 - 5.0) ** 2), ((5, 0), (2.0 - 5.0) ** 2), ((5, 1), (2.0 - 8.0 - 5.0) ** 2)]
)
def test_an_empty_answer_scores_zero_and_one_token_its_log_ratio(dtype, tokens, loss):
    chosen, rejected = one_pair(tokens, dtype)
    losses = method_of("x", MEAN).loss(chosen, rejected).losses
    losses.sum().backward()
    assert losses.dtype == dtype and losses.tolist() == [loss]
    assert chosen.policy.grad.isfinite().all() and rejected.policy.grad.isfinite().all()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, r"key 'runs\.x\.tau' is missing"),
        ({"tau": 0.0}, r"runs\.x\.tau = 0.0 is refused: input should be greater than 0"),
        ({"tau": 0.1, "reduction": "token_mean"}, r"runs\.x\.reduction = 'token_mean' is refused"),
        ({"tau": 0.1, "beta": 0.1}, r"unknown key 'runs\.x\.beta'"),
    ],
)
def test_meaningless_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("x", {"method": "ipo", **config})
