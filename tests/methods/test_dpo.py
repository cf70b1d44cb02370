"""DPO on the worked example F1: two pairs whose four log-probs are made up, h = (1.4, -2.7)."""

import math
from importlib import import_module

import pytest
import torch

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig
from epsilon_dpo.methods.registry import method_names, method_of
from epsilon_dpo.pipeline.observability.errors import UserError

BETA_TENTH = {"method": "dpo", "beta": 0.1}
NOISY = {**BETA_TENTH, "label_smoothing": 0.1}


@pytest.mark.parametrize(
    ("entry", "losses", "mean", "gradient"),
    [
        (BETA_TENTH, [0.6255951823, 0.8372321351], 0.7314136587, [-0.0232528527, -0.0283546452]),
        ({"method": "dpo", "beta": 0.01}, None, 0.6964549916, [-0.0024825003, -0.0025337479]),
        ({**NOISY, "smoothing": "conservative"}, None, 0.7249136587, [-0.0182528527, -0.0233546452]),
        (
            {**NOISY, "smoothing": "robust"},
            [0.6080951823, 0.8709821351],
            0.7395386587,
            [-0.0295028527, -0.0346046452],
        ),
    ],
)
def test_worked_examples(holds_on_f1, entry, losses, mean, gradient):
    loss = holds_on_f1(entry, losses, mean, gradient, [-g for g in gradient])
    # The rewards are beta times the log-ratios, whatever share of the labels is believed to be flipped.
    assert [reward / entry["beta"] for reward in loss.chosen_rewards.tolist()] == pytest.approx([0.6, -1.8], rel=1e-5)
    assert [reward / entry["beta"] for reward in loss.rejected_rewards.tolist()] == pytest.approx([-0.8, 0.9], rel=1e-5)
    assert not loss.chosen_rewards.requires_grad and not loss.rejected_rewards.requires_grad


def pair(h, dtype=torch.float64):
    """Pairs with log-ratio margins `h`, with a gradient on the chosen side."""
    zero = torch.zeros(len(h), dtype=dtype)
    chosen = Logps(torch.tensor(h, dtype=dtype).requires_grad_(), torch.ones(len(h), dtype=torch.long), zero)
    return chosen, Logps(zero, torch.ones(len(h), dtype=torch.long), zero)


def test_without_smoothing_the_loss_is_dpo_bit_for_bit(f1):
    chosen, rejected = f1(torch.float32)
    losses = method_of("x", {**BETA_TENTH, "label_smoothing": 0.0, "smoothing": None}).loss(chosen, rejected).losses
    expected = -torch.nn.functional.logsigmoid(0.1 * (chosen.logratios - rejected.logratios))
    assert torch.equal(losses, expected)


def test_conservative_smoothing_stops_where_the_probability_is_that_of_a_right_label():
    chosen, rejected = pair([math.log(0.9 / 0.1) / 0.1, 30.0])
    method_of("x", {**NOISY, "smoothing": "conservative"}).loss(chosen, rejected).losses.sum().backward()
    at_the_target, beyond = chosen.policy.grad.tolist()
    assert at_the_target == pytest.approx(0.0, abs=1e-15) and beyond > 0.005


def test_robust_smoothing_is_unbiased_under_flipped_labels():
    right, wrong = pair([-40.0, -2.7, 0.0, 1.4, 40.0])
    robust = method_of("x", {**NOISY, "smoothing": "robust"})
    mean = 0.9 * robust.loss(right, wrong).losses + 0.1 * robust.loss(wrong, right).losses
    torch.testing.assert_close(mean, method_of("x", BETA_TENTH).loss(right, wrong).losses, rtol=1e-12, atol=1e-12)


def test_swapping_the_sides(f1):
    method = method_of("dpo", BETA_TENTH)
    chosen, rejected = f1()
    loss, swapped = method.loss(chosen, rejected), method.loss(rejected, chosen)
    margins = (loss.chosen_rewards - loss.rejected_rewards).tolist()
    assert (swapped.chosen_rewards - swapped.rejected_rewards).tolist() == [-m for m in margins]
    # -log sigma(x) and -log sigma(-x) differ by x.
    assert (swapped.losses - loss.losses).tolist() == pytest.approx(margins)


@pytest.mark.parametrize(
    ("smoothing", "loss", "gradient"),
    [
        ({}, 5e4, -1.0),
        ({"label_smoothing": 0.25, "smoothing": "conservative"}, 0.75 * 5e4, -0.75),
        ({"label_smoothing": 0.25, "smoothing": "robust"}, 1.5 * 5e4, -1.5),
    ],
)
def test_extreme_margins_stay_finite_in_float32(smoothing, loss, gradient):
    chosen, rejected = pair([-5e4], torch.float32)
    losses = method_of("dpo", {"method": "dpo", "beta": 1.0, **smoothing}).loss(chosen, rejected).losses
    losses.sum().backward()
    assert losses.item() == loss and chosen.policy.grad.item() == gradient


def test_an_empty_answer_and_equal_models_give_log_two():
    same = Logps(torch.tensor([0.0, -7.0]), torch.tensor([0, 3]), torch.tensor([0.0, -7.0]))
    loss = method_of("dpo", BETA_TENTH).loss(same, same)
    assert loss.losses.tolist() == pytest.approx([math.log(2.0)] * 2, rel=1e-7)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"method": "dop", "beta": 0.1}, r"runs\.x\.method = 'dop' is unknown; did you mean 'dpo'\? Methods: .*dpo"),
        ({"beta": 0.1}, r"'runs\.x\.method' is missing"),
        ({"method": "dpo", "beta": -0.1}, r"runs\.x\.beta = -0.1 is refused: input should be greater than 0"),
        ({"method": "dpo", "betta": 0.1, "beta": 0.1}, r"unknown key 'runs\.x\.betta'; did you mean 'beta'\?"),
        ({"method": "dpo", "beta": 0.1, "learning_rate": 0.0}, r"runs\.x\.learning_rate = 0.0 is refused"),
        (NOISY, "label_smoothing needs smoothing: conservative"),
        ({**BETA_TENTH, "smoothing": "robust"}, "smoothing does nothing without label_smoothing above 0"),
        ({**NOISY, "label_smoothing": 0.5}, r"runs\.x\.label_smoothing = 0.5 is refused"),
        ({**NOISY, "smoothing": "rubust"}, r"runs\.x\.smoothing = 'rubust' is refused"),
    ],
)
def test_wrong_entries_are_refused_in_one_sentence(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("x", config)


def test_every_file_of_the_folder_is_a_method():
    names = method_names()
    assert {"dpo", "epsilon_dpo", "tr_dpo"} <= set(names) and names == sorted(names)
    for name in names:
        found = import_module(f"epsilon_dpo.methods.{name}").METHOD
        assert issubclass(found, Method) and issubclass(found.Config, MethodConfig), name
