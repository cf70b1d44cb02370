"""The worked example F1 that most losses are tested on: two pairs whose log-probs are made up.

pi_w = [-12.5, -33.0], pi_l = [-14.0, -24.5], ref_w = [-13.1, -31.2], ref_l = [-13.2, -25.4], |y_w| = [10, 24],
|y_l| = [8, 20], hence h = [1.4, -2.7]. Expected numbers in the tests are printed with ten decimals.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from epsilon_dpo.methods.interface import Logps, PairLoss
from epsilon_dpo.methods.registry import method_of

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.fixture
def f1() -> Callable[..., tuple[Logps, Logps]]:
    """Make chosen and rejected of F1 with gradients on the policy's log-probs; keywords add fields to both sides."""

    def make(dtype: torch.dtype = torch.float64, **fields: Any) -> tuple[Logps, Logps]:
        def side(policy: list[float], reference: list[float], tokens: list[int]) -> Logps:
            leaf = torch.tensor(policy, dtype=dtype).requires_grad_()
            ref = torch.tensor(reference, dtype=dtype)
            mean_tokens = sum(tokens) / len(tokens)
            return Logps(leaf, torch.tensor(tokens), ref, mean_tokens=mean_tokens, **fields)

        return side([-12.5, -33.0], [-13.1, -31.2], [10, 24]), side([-14.0, -24.5], [-13.2, -25.4], [8, 20])

    return make


@pytest.fixture(params=TOLERANCES, ids=str)
def holds_on_f1(request: pytest.FixtureRequest, f1: Callable[..., tuple[Logps, Logps]]) -> Callable[..., PairLoss]:
    """Assert losses, their mean and d(mean loss)/d pi_w, d pi_l of an entry of params.yaml, in float64 and float32, and
    that what is logged carries no gradient.

    `None` skips a number that the source does not print. Tolerances are absolute for numbers below 1, else relative.
    A method that looks ahead sees F1 as a whole step, `steps` times.
    """
    dtype = request.param

    def check(
        entry: dict[str, Any],
        losses: list[float] | None,
        mean: float | None,
        chosen_gradient: list[float] | None,
        rejected_gradient: list[float] | None,
        steps: int = 1,
        **fields: Any,
    ) -> PairLoss:
        chosen, rejected = f1(dtype, **fields)
        method = method_of("x", entry)
        if method.looks_ahead:
            for _ in range(steps):
                method.before_step(method.looked_at(chosen, rejected).detach().double(), torch.Generator())
        found = method.loss(chosen, rejected)
        assert not any(x.requires_grad for x in (found.chosen_rewards, found.rejected_rewards, *found.metrics.values()))
        found.losses.mean().backward()
        zero = torch.zeros(2, dtype=dtype)
        for got, expected in (
            (found.losses.tolist(), losses),
            (found.losses.mean().item(), mean),
            ((zero if chosen.policy.grad is None else chosen.policy.grad).tolist(), chosen_gradient),
            ((zero if rejected.policy.grad is None else rejected.policy.grad).tolist(), rejected_gradient),
        ):
            if expected is not None:
                assert got == pytest.approx(expected, rel=TOLERANCES[dtype], abs=TOLERANCES[dtype])
        return found

    return check
