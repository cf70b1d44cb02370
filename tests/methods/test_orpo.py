"""ORPO: the worked example, and log-odds that stay exact and finite up to probability 1."""

import math
from decimal import Decimal, localcontext

import pytest
import torch

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.orpo import log1mexp, log_odds
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError

PRECISIONS = [(torch.float32, 1e-6), (torch.float64, 1e-14)]


def entry(**config):
    return {"method": "orpo", "lam": 0.5, **config}


@pytest.mark.parametrize(
    ("reduction", "losses", "mean", "chosen_gradient"),
    [
        ("mean", [1.4605954692, 1.7758097986], 1.6182026339, [-0.0620440619, -0.0285207469]),
        ("sum", [12.7105954736, 33.4008097865], 23.0557026301, [-0.5120440619, -0.5076874136]),
        ("token_mean", None, 1.6439379280, [-0.0414558266, -0.0370991783]),
    ],
)
def test_worked_example(holds_on_f1, reduction, losses, mean, chosen_gradient):
    rejected_gradient = [0.0130009523, 0.0097593662]
    loss = holds_on_f1(entry(sft_reduction=reduction), losses, mean, chosen_gradient, rejected_gradient)
    # The difference of the log-odds, its log sigmoid (lam * -log sigma = .2105954736, .4008097865) and the rewards.
    assert loss.metrics["log_odds_chosen"].tolist() == pytest.approx([0.6466926984, -0.2063215140], rel=2e-6)
    assert loss.metrics["log_odds_ratio"].tolist() == pytest.approx([-2 * 0.2105954736, -2 * 0.4008097865], rel=1e-6)
    assert loss.chosen_rewards.tolist() == pytest.approx([-0.625, -0.6875])
    assert loss.rejected_rewards.tolist() == pytest.approx([-0.875, -0.6125])
    nll = {"mean": [1.25, 1.375], "sum": [12.5, 33.0], "token_mean": [12.5 / 17, 33 / 17]}[reduction]
    assert loss.metrics["nll_loss"].tolist() == pytest.approx(nll)
    assert not any(values.requires_grad for values in loss.metrics.values())


def test_lam_zero_is_sft(holds_on_f1):
    holds_on_f1(entry(lam=0.0), [1.25, 1.375], 1.3125, [-0.05, -1 / 48], [0.0, 0.0])


def exact(a):
    """log(1 - e^a), its derivative, log(e^a / (1 - e^a)) and its derivative, with 50 digits until the last rounding."""
    with localcontext(prec=50):
        p = Decimal(a).exp()
        log_rest = (1 - p).ln()
        return float(log_rest), float(-p / (1 - p)), float(Decimal(a) - log_rest), float(1 / (1 - p))


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS, ids=str)
def test_log_odds_keep_all_digits(dtype, tolerance):
    a = torch.tensor([-50.0, -20.0, -0.7, -0.69, -1e-3, -2e-6], dtype=dtype, requires_grad=True)
    expected = [exact(value) for value in a.tolist()]
    # The log-odds are 0 at a = -ln 2, where only absolute digits can be kept.
    for function, value, gradient, absolute in ((log1mexp, 0, 1, 0.0), (log_odds, 2, 3, tolerance)):
        found = function(a)
        (slope,) = torch.autograd.grad(found.sum(), a)
        assert found.tolist() == pytest.approx([row[value] for row in expected], rel=tolerance, abs=absolute)
        assert slope.tolist() == pytest.approx([row[gradient] for row in expected], rel=tolerance, abs=0)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS, ids=str)
def test_probability_one_counts_as_odds_of_a_million(dtype, tolerance):
    a = torch.tensor([0.0, -1e-8, -1e-7], dtype=dtype, requires_grad=True)
    found = log_odds(a)
    found.sum().backward()
    assert found.tolist() == pytest.approx([exact(-1e-6)[2]] * 3, rel=max(tolerance, 1e-9))
    assert a.grad.tolist() == [0.0] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_empty_and_certain_answers_have_finite_losses_and_gradients(dtype, tokens, reduction):
    method = method_of("x", entry(sft_reduction=reduction))
    # The empty or certain answer has log-odds log(10^6), the other one of a = -1 has -log(e - 1).
    far = math.log(1e6) + math.log(math.e - 1)
    for certain_is_chosen, odds_loss in ((True, math.log1p(math.exp(-far))), (False, math.log1p(math.exp(far)))):
        certain = Logps(torch.tensor([0.0], dtype=dtype, requires_grad=True), torch.tensor([tokens]))
        other = Logps(torch.tensor([-2.0], dtype=dtype, requires_grad=True), torch.tensor([2]))
        loss = method.loss(*((certain, other) if certain_is_chosen else (other, certain)))
        loss.losses.sum().backward()
        nll = 0.0 if certain_is_chosen else {"mean": 1.0, "sum": 2.0}[reduction]
        assert loss.losses.item() == pytest.approx(nll + 0.5 * odds_loss, rel=1e-5)
        # Only the SFT term may move a certain answer; through the odds it has no gradient.
        assert certain.policy.grad.item() == (-1.0 if certain_is_chosen else 0.0)
        assert math.isfinite(other.policy.grad.item()) and (other.policy.grad.item() > 0) == certain_is_chosen
        assert all(torch.isfinite(values).all() for values in loss.metrics.values())


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"lam": -0.1}, r"runs\.x\.lam = -0.1 is refused: input should be greater than or equal to 0"),
        ({"sft_reduction": "median"}, r"runs\.x\.sft_reduction = 'median' is refused: .*'token_mean'"),
        ({"beta": 0.1}, r"unknown key 'runs\.x\.beta'"),
    ],
)
def test_wrong_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("x", entry(**config))
