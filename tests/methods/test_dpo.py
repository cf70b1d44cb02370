"""DPO on the worked example F1: two pairs whose four log-probs are made up, h = (1.4, -2.7)."""

import math
from importlib import import_module

import pytest
import torch

from epsilon_dpo import methods
from epsilon_dpo.methods import registry
from epsilon_dpo.methods.interface import Logps, Method, MethodConfig
from epsilon_dpo.methods.online import OnlineMethod
from epsilon_dpo.methods.registry import method_names, method_of, online_method_names
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
        (
            {**NOISY, "smoothing": "forward"},
            [0.6387454457, 0.8067063781],
            0.7227259119,
            [-0.0188485226, -0.0220017405],
        ),
        (
            {**NOISY, "smoothing": "forward", "label_smoothing": 0.15},
            [0.6453859997, 0.7917859677],
            None,
            [-0.0166023408, -0.0189664145],
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


BY_ANNOTATOR = {**BETA_TENTH, "smoothing": "forward", "flip_by": "annotator"}


def test_each_pair_has_the_rate_of_its_annotator(holds_on_f1):
    gradient = [-0.0210651670, -0.0103769156]
    rates = torch.tensor([0.05, 0.3], dtype=torch.float64)
    losses, slopes = [0.6321486980, 0.7483156833], [-g for g in gradient]
    holds_on_f1(BY_ANNOTATOR, losses, 0.6902321907, gradient, slopes, flip_rate=rates)


@pytest.mark.parametrize("smoothing", ["conservative", "robust", "forward"])
def test_rates_of_pairs_are_one_rate_where_they_are_equal_and_dpo_where_they_are_0(f1, smoothing):
    chosen, rejected = f1(flip_rate=torch.tensor([0.1, 0.0], dtype=torch.float64))
    found = method_of("x", {**BY_ANNOTATOR, "smoothing": smoothing}).loss(chosen, rejected)
    one = method_of("x", {**NOISY, "smoothing": smoothing}).loss(chosen, rejected).losses[0]
    none = method_of("x", BETA_TENTH).loss(chosen, rejected).losses[1]
    torch.testing.assert_close(found.losses, torch.stack([one, none]), rtol=1e-14, atol=0)
    found.losses.sum().backward()
    assert chosen.policy.grad.isfinite().all() and chosen.policy.grad[1].item() == pytest.approx(
        -0.1 / (1 + math.exp(-0.27))
    )


@pytest.mark.parametrize("flip", [0.05, 0.15, 0.4])
def test_the_likelihood_of_the_flip_model_and_its_derivative(flip):
    """-log P(label), and d/dx = (w - 1) (1 - s) + (1 - w) s for s = sigma(x), 1 - w the posterior of a flip."""
    margins = [-40.0, -2.7, 0.0, 1.4, 9.0]
    chosen, rejected = pair(margins)
    found = method_of("x", {**BETA_TENTH, "smoothing": "forward", "label_smoothing": flip}).loss(chosen, rejected)
    found.losses.sum().backward()
    for h, loss, flipped, slope in zip(
        margins, found.losses.tolist(), found.metrics["dpo/flipped"].tolist(), chosen.policy.grad.tolist(), strict=True
    ):
        right = 1.0 / (1.0 + math.exp(-0.1 * h))
        label = (1.0 - flip) * right + flip * (1.0 - right)
        assert loss == pytest.approx(-math.log(label), rel=1e-12) and loss < -math.log(flip)
        assert flipped == pytest.approx(flip * (1.0 - right) / label, rel=1e-12)
        assert slope == pytest.approx(0.1 * (flipped - (1.0 - right)), rel=1e-12)
    assert not found.metrics["dpo/flipped"].requires_grad


def test_labels_of_outliers_are_flips_at_half_their_rate(f1):
    """A share q of fair coins: -log((1 - q) sigma(x) + q / 2), and the posterior of such a coin q / 2 over that sum.

    Of the coins that came up as the answers are, half a label is right: sigma(x) q / 2 more than the flips.
    """
    chosen, rejected = f1()
    found = method_of("x", {**NOISY, "smoothing": "forward", "label_smoothing": 0.15}).loss(chosen, rejected)
    label = (-found.losses).exp()
    coin = 0.15 / label
    assert coin.tolist() == pytest.approx([0.2860084323, 0.3311002706], rel=1e-9)
    right = torch.sigmoid(0.1 * (chosen.logratios - rejected.logratios))
    torch.testing.assert_close(label, 0.7 * right + 0.15, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.metrics["dpo/flipped"], coin - 0.15 * right / label, rtol=1e-12, atol=0)


def test_the_true_rate_has_its_minimum_at_the_clean_probability():
    """Labels of P(first) = .8, flipped at .2: robust and forward lead back to .8, conservative to less."""
    clean, flip = 0.8, 0.2
    stored = clean * (1.0 - flip) + (1.0 - clean) * flip
    slopes = {}
    for smoothing in ("conservative", "robust", "forward"):
        first, second = pair([math.log(clean / (1.0 - clean)) / 0.1])
        method = method_of("x", {**BETA_TENTH, "smoothing": smoothing, "label_smoothing": flip})
        mean = stored * method.loss(first, second).losses + (1.0 - stored) * method.loss(second, first).losses
        (slopes[smoothing],) = torch.autograd.grad(mean.sum(), first.policy)
    assert slopes["robust"].item() == pytest.approx(0.0, abs=1e-15)
    assert slopes["forward"].item() == pytest.approx(0.0, abs=1e-15)
    assert slopes["conservative"].item() > 0.01


FORWARD_KL = {**BETA_TENTH, "divergence": "forward_kl"}


def test_scores_of_the_forward_kl(holds_on_f1):
    """1 - exp(-r) in the place of r: of the two losses and slopes below, by hand from the scores."""
    chosen, rejected = [0.4511883639, -5.0496474644], [-1.2255409285, 0.5934303403]
    losses = [math.log1p(math.exp(-0.1 * (w - r))) for w, r in zip(chosen, rejected, strict=True)]
    pulls = [0.05 * (1.0 - math.exp(-loss)) for loss in losses]  # beta / 2 of the mean, times 1 - sigma(x)
    assert losses == pytest.approx([0.6128208833, 1.0145892712], rel=1e-9)
    found = holds_on_f1(
        FORWARD_KL,
        losses,
        None,
        [-pull * math.exp(-r) for pull, r in zip(pulls, (0.6, -1.8), strict=True)],
        [pull * math.exp(-r) for pull, r in zip(pulls, (-0.8, 0.9), strict=True)],
    )
    assert [10.0 * reward for reward in found.chosen_rewards.tolist()] == pytest.approx(chosen, rel=1e-5)
    assert [10.0 * reward for reward in found.rejected_rewards.tolist()] == pytest.approx(rejected, rel=1e-5)


def test_near_the_reference_both_divergences_are_one():
    chosen, rejected = pair([1e-6, -1e-6])
    one, other = (method_of("x", entry).loss(chosen, rejected).losses for entry in (BETA_TENTH, FORWARD_KL))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_dropped_answer_is_dropped_or_the_loss_is_no_number(dtype):
    """An answer 900 nats less likely than under the reference: rejected, it pulls no more; chosen, the loss overflows.

    In the first case 0 times infinity must not become the gradient; in the second the trainer stops.
    """
    method = method_of("x", FORWARD_KL)
    kept, dropped = pair([0.5], dtype)[0], pair([-900.0], dtype)[0]
    losses = method.loss(kept, dropped).losses
    losses.sum().backward()
    assert losses.item() == kept.policy.grad.item() == dropped.policy.grad.item() == 0.0
    assert method.loss(dropped, kept).losses.item() == math.inf
    assert method.loss(dropped, dropped).losses.item() == math.inf


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
        ({"label_smoothing": 0.25, "smoothing": "forward"}, pytest.approx(math.log(4.0)), 0.0),
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
        ({**BETA_TENTH, "flip_by": "annotator"}, "flip_by needs smoothing: conservative"),
        ({**NOISY, "smoothing": "forward", "flip_by": "annotator"}, "label_smoothing would not be read"),
        ({**NOISY, "smoothing": "forward", "divergence": "forward_kl"}, "remove divergence, or smoothing with"),
        ({**BETA_TENTH, "divergence": "js"}, r"runs\.x\.divergence = 'js' is refused"),
        ({**NOISY, "label_smoothing": 0.5}, r"runs\.x\.label_smoothing = 0.5 is refused"),
        ({**NOISY, "smoothing": "rubust"}, r"runs\.x\.smoothing = 'rubust' is refused"),
    ],
)
def test_wrong_entries_are_refused_in_one_sentence(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("x", config)


def test_it_has_no_state_and_takes_none_and_single_pairs_make_a_step():
    method = method_of("x", BETA_TENTH)
    assert method.state_dict() == {} and method.min_pairs == 1
    method.load_state_dict({})
    with pytest.raises(ValueError, match=r"DPO has no state, but the checkpoint holds \['beta'\]"):
        method.load_state_dict({"beta": 0.1})


def test_every_file_of_the_folder_is_a_method():
    names = method_names()
    assert {"dpo", "epsilon_dpo", "tr_dpo"} <= set(names) and names == sorted(names)
    for name in names:
        found = import_module(f"epsilon_dpo.methods.{name}").METHOD
        assert issubclass(found, Method | OnlineMethod) and issubclass(found.Config, MethodConfig), name


def test_files_that_are_no_methods_are_passed_over_or_named(tmp_path, monkeypatch):
    """An editor's lock link, a Mac's copy, a half-written draft: as they come to lie in the folder of methods."""
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "registry.py"))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    for name in (".#dpo.py", "._dpo.py", "dpo copy.py"):
        (tmp_path / name).touch()
    assert method_names() == []
    (tmp_path / "helpers_of_mine.py").touch()
    with pytest.raises(UserError, match=r"helpers_of_mine\.py has no METHOD, so it is no method; give it one, or move"):
        online_method_names()
    (tmp_path / "a_draft.py").write_text("class Half(\n")
    with pytest.raises(UserError, match=r"a_draft\.py, line 1: .*; correct it, or move it out"):
        online_method_names()
