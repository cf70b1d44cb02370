"""DPO on the worked example F1: two pairs whose four log-probs are made up, h = (1.4, -2.7)."""

import math
from importlib import import_module

import pytest
import torch

from epsilon_dpo.errors import UserError
from epsilon_dpo.methods.interface import Logps, Method, MethodNumbers
from epsilon_dpo.methods.registry import method_names, method_of

PI_W, PI_L, REF_W, REF_L = [-12.5, -33.0], [-14.0, -24.5], [-13.1, -31.2], [-13.2, -25.4]


def sides(dtype):
    """Chosen and rejected of F1, with gradients on the policy's log-probs."""
    make = lambda values: torch.tensor(values, dtype=dtype)  # noqa: E731
    chosen = Logps(make(PI_W).requires_grad_(), torch.tensor([10, 24]), make(REF_W))
    return chosen, Logps(make(PI_L).requires_grad_(), torch.tensor([8, 20]), make(REF_L))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("beta", "losses", "mean", "gradient"),
    [
        (0.1, (0.6255951823, 0.8372321351), 0.7314136587, (-0.0232528527, -0.0283546452)),
        (0.01, None, 0.6964549916, (-0.0024825003, -0.0025337479)),
    ],
)
def test_worked_example(dtype, tolerance, beta, losses, mean, gradient):
    chosen, rejected = sides(dtype)
    loss = method_of("dpo", {"method": "dpo", "beta": beta}).loss(chosen, rejected)
    loss.losses.mean().backward()
    if losses is not None:
        assert loss.losses.tolist() == pytest.approx(losses, rel=tolerance)
    assert loss.losses.mean().item() == pytest.approx(mean, rel=tolerance)
    # The specification prints ten decimals.
    assert chosen.policy.grad.tolist() == pytest.approx(gradient, rel=max(tolerance, 1e-7), abs=1e-10)
    assert rejected.policy.grad.tolist() == pytest.approx([-g for g in gradient], rel=max(tolerance, 1e-7), abs=1e-10)


def test_rewards_and_swapping_the_sides():
    method = method_of("dpo", {"method": "dpo", "beta": 0.1})
    chosen, rejected = sides(torch.float64)
    loss, swapped = method.loss(chosen, rejected), method.loss(rejected, chosen)
    assert loss.chosen_rewards.tolist() == pytest.approx([0.06, -0.18])
    margins = (loss.chosen_rewards - loss.rejected_rewards).tolist()
    assert (swapped.chosen_rewards - swapped.rejected_rewards).tolist() == [-m for m in margins]
    # -log sigma(x) and -log sigma(-x) differ by x.
    assert (swapped.losses - loss.losses).tolist() == pytest.approx(margins)


def test_extreme_margins_stay_finite_in_float32():
    far = Logps(torch.tensor([-5e4], requires_grad=True), torch.tensor([1]), torch.tensor([0.0]))
    near = Logps(torch.tensor([0.0]), torch.tensor([1]), torch.tensor([0.0]))
    losses = method_of("dpo", {"method": "dpo", "beta": 1.0}).loss(far, near).losses
    losses.sum().backward()
    assert losses.item() == 5e4 and far.policy.grad.item() == -1.0


def test_equal_policy_and_reference_give_log_two():
    same = Logps(torch.tensor([-7.0]), torch.tensor([3]), torch.tensor([-7.0]))
    loss = method_of("dpo", {"method": "dpo", "beta": 0.1}).loss(same, same)
    assert loss.losses.item() == pytest.approx(math.log(2.0), rel=1e-7)


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ({"method": "dop", "beta": 0.1}, r"runs\.x\.method = 'dop' is unknown; did you mean 'dpo'\? Methods: .*dpo"),
        ({"beta": 0.1}, r"'runs\.x\.method' is missing"),
        ({"method": "dpo", "beta": -0.1}, r"runs\.x\.beta = -0.1 is refused: input should be greater than 0"),
        ({"method": "dpo", "betta": 0.1, "beta": 0.1}, r"unknown key 'runs\.x\.betta'; did you mean 'beta'\?"),
        ({"method": "dpo", "beta": 0.1, "learning_rate": 0.0}, r"runs\.x\.learning_rate = 0.0 is refused"),
    ],
)
def test_wrong_entries_are_refused_in_one_sentence(numbers, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("x", numbers)


def test_every_file_of_the_folder_is_a_method():
    names = method_names()
    assert {"dpo", "epsilon_dpo", "tr_dpo"} <= set(names) and names == sorted(names)
    for name in names:
        found = import_module(f"epsilon_dpo.methods.{name}").METHOD
        assert issubclass(found, Method) and issubclass(found.Numbers, MethodNumbers), name
