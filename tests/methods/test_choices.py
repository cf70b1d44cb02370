"""What docs/methods.md says of a choice among several answers that is reduced to pairs, the best against the rest.

No method trains on choices; their likelihood stands here, as what the pairs' losses are compared with.
"""

import math

import pytest
import torch
from torch import Tensor

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of

RATIOS = torch.tensor([[0.6, -0.8, 0.3, -0.2], [-1.8, 0.9, 0.4, -0.5]], dtype=torch.float64)  # the first is the best
BETA = 0.5
DPO = method_of("x", {"method": "dpo", "beta": BETA})


def choice(ratios: Tensor, best: int = 0) -> Tensor:
    """-log of Luce's probability that `best` of L answers is chosen, [prompts]."""
    return -torch.log_softmax(BETA * ratios, -1)[:, best]


def pairs(ratios: Tensor, best: int = 0) -> Tensor:
    """The losses of the pairs of `best` and each other answer, [prompts, L - 1]."""
    others = [place for place in range(ratios.shape[1]) if place != best]

    def side(policy: Tensor) -> Logps:
        return Logps(policy, torch.ones(policy.shape), torch.zeros_like(policy))

    return torch.stack([DPO.loss(side(ratios[:, best]), side(ratios[:, other])).losses for other in others], -1)


def test_worked_example() -> None:
    ratios = RATIOS.clone().requires_grad_()
    losses = choice(ratios)
    assert losses.tolist() == pytest.approx([1.1077746280, 2.2800462287], rel=1e-9)
    (gradient,) = torch.autograd.grad(losses.mean(), ratios)
    assert gradient[0].tolist() == pytest.approx([-0.1674267078, 0.0410046834, 0.0710714913, 0.0553505331], rel=1e-8)
    reduced = pairs(ratios).mean(-1)
    assert reduced.tolist() == pytest.approx([0.5123861164, 1.3459664107], rel=1e-9)
    (gradient,) = torch.autograd.grad(reduced.mean(), ratios)
    assert gradient[0].tolist() == pytest.approx([-0.0996412269, 0.0276510190, 0.0385475129, 0.0334426950], rel=1e-8)


def test_the_pairs_bound_the_choice_from_above() -> None:
    assert pairs(RATIOS).sum(-1)[0].item() == pytest.approx(1.537, abs=5e-4)
    assert choice(RATIOS)[0].item() == pytest.approx(1.108, abs=5e-4)
    drawn = 5.0 * torch.randn(200, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert (pairs(drawn).sum(-1) > choice(drawn)).all()
    same = torch.zeros(1, 4, dtype=torch.float64)
    assert pairs(same).sum().item() == pytest.approx(3.0 * math.log(2.0))
    assert choice(same).item() == pytest.approx(math.log(4.0))


def test_of_two_answers_the_choice_is_dpo() -> None:
    torch.testing.assert_close(pairs(RATIOS[:, :2])[:, 0], choice(RATIOS[:, :2]), rtol=1e-14, atol=0)


def test_a_constant_per_prompt_changes_neither() -> None:
    for loss in (choice, pairs):
        torch.testing.assert_close(loss(RATIOS + 7.0), loss(RATIOS), rtol=1e-12, atol=0)


def test_the_minimum_of_the_pairs_is_that_of_the_choices() -> None:
    """In expectation over Luce's choices; an order that is invented for the others leads elsewhere."""
    rewards = torch.tensor([[1.0, 0.2, -0.5, 0.7]], dtype=torch.float64)
    chances = torch.softmax(rewards, -1)[0]
    ratios = (rewards / BETA).requires_grad_()  # where beta r is the reward
    slopes = []
    for loss in (choice, pairs):
        mean = sum(chance * loss(ratios, best).sum() for best, chance in enumerate(chances))
        slopes.append(torch.autograd.grad(mean, ratios)[0].abs().max().item())
    assert max(slopes) < 1e-15
    rest = [[place for place in range(4) if place != best] for best in range(4)]
    invented = sum(
        chance * pairs(ratios[:, rest[best]], first).sum() / 2.0  # each order of the others as likely as its reverse
        for best, chance in enumerate(chances)
        for first in range(3)
    )
    assert torch.autograd.grad(invented, ratios)[0].abs().max().item() > 0.05
