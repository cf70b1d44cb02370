"""MADPO on the worked example F1, whose pairs a reward model finds R = (.8, -1.1) nats apart, and its weights."""

import math
from dataclasses import replace

import pytest
import torch

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError

PUBLISHED = {"method": "madpo", "beta": 0.1, "tau": math.log(0.999 / 0.001)}
TAU_2 = {**PUBLISHED, "tau": 2.0}
WIDE = {**TAU_2, "c_max": 4.0, "c_min": 0.25}
R = [0.8, -1.1]


@pytest.fixture
def with_margins(f1):
    """F1 with margins R, given as two scores that are not each other's negative."""

    def make(margins=R, dtype=torch.float64):
        chosen, rejected = f1(dtype)
        scores = torch.tensor([3.5, -0.25], dtype=dtype)
        return replace(chosen, score=scores + torch.tensor(margins, dtype=dtype)), replace(rejected, score=scores)

    return make


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("entry", "c", "w", "losses", "mean", "gradient"),
    [
        (
            PUBLISHED,
            [1.9933463395, 1.9910324146],
            [1.2047882057, 0.4029785258],
            [0.7537096972, 0.3373865715],
            0.5455481344,
            [-0.0280147627, -0.0114263131],
        ),
        (
            TAU_2,
            [1.4361026189, 1.3272943970],
            [1.1004851463, 0.7546398621],
            None,
            0.6601334744,
            [-0.0255894191, -0.0213975456],
        ),
        (WIDE, None, [1.1977996365, 0.5460995990], None, 0.6032749076, None),
    ],
    ids=["published", "tau 2", "wide"],
)
def test_worked_examples(with_margins, dtype, entry, c, w, losses, mean, gradient):
    tolerance = {"rel": 1e-9, "abs": 1e-10} if dtype == torch.float64 else {"rel": 1e-5, "abs": 1e-7}
    method, (chosen, rejected) = method_of("x", entry), with_margins(dtype=dtype)
    loss = method.loss(chosen, rejected)
    loss.losses.mean().backward()
    if c is not None:
        assert method.stretch(torch.tensor(R, dtype=dtype)).tolist() == pytest.approx(c, **tolerance)
    assert loss.metrics["madpo/weight"].tolist() == pytest.approx(w, **tolerance)
    if losses is not None:
        assert loss.losses.tolist() == pytest.approx(losses, **tolerance)
    assert loss.losses.mean().item() == pytest.approx(mean, **tolerance)
    if gradient is not None:
        assert chosen.policy.grad.tolist() == pytest.approx(gradient, **tolerance)
        assert rejected.policy.grad.tolist() == pytest.approx([-g for g in gradient], **tolerance)
    assert loss.chosen_rewards.tolist() == pytest.approx([0.06, -0.18], rel=1e-5)
    assert loss.rejected_rewards.tolist() == pytest.approx([-0.08, 0.09], rel=1e-5)
    assert not loss.chosen_rewards.requires_grad and not loss.metrics["madpo/weight"].requires_grad


WEIGHTS = {
    -8: 1, -7: 1, -6.9: 0.9845821864, -3: 0.0620135585, -1: 0.4464094258, -0.2: 0.8918669326, 0: 1, 0.2: 1.0885318677,
    1: 1.2036545911, 3: 1.0466995951, 6.9: 1.0000155378, 7: 0.9997825483, 12: 0.9976656909,
}  # fmt: skip
STRETCHES = {0: 1.9970029970, 1: 1.9918811742, 3: 1.9420147344, 7: 0.9694157226, 12: 0.5045894659}


def test_the_table_of_weights():
    method = method_of("x", PUBLISHED)
    weights = method.weights(torch.tensor(list(WEIGHTS), dtype=torch.float64))
    assert weights.tolist() == pytest.approx(list(WEIGHTS.values()), rel=1e-9, abs=1e-10)
    stretches = method.stretch(torch.tensor(list(STRETCHES), dtype=torch.float64))
    assert stretches.tolist() == pytest.approx(list(STRETCHES.values()), rel=1e-9)
    assert method.stretch(torch.tensor(method.config.tau, dtype=torch.float64)).item() == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("lam", [0.5, 1.0, 2.0])
def test_lam_is_how_fast_a_stretch_becomes_a_shrinkage(lam):
    """c = .5 + 1.5 / (1 + 2 exp(lam (|R| - tau))): 1.25, 1 and .8 where the exponential is 1/2, 1 and 2."""
    away = math.log(2.0) / lam
    margins = torch.tensor([2.0 - away, -2.0, 2.0 + away], dtype=torch.float64)
    stretches = method_of("x", {**TAU_2, "lam": lam}).stretch(margins)
    assert stretches.tolist() == pytest.approx([1.25, 1.0, 0.8], rel=1e-12)


def test_no_weight_exceeds_its_bound():
    """(1 + sqrt 2) / 2 for c = 2, at R = log(1 + sqrt 2); 1.4203192453 for c = 4, at .57906."""
    margins = torch.linspace(-30.0, 30.0, 600_001, dtype=torch.float64)
    for c_max, bound, place in ((2.0, (1 + math.sqrt(2)) / 2, 0.88137), (4.0, 1.4203192453, 0.57906)):
        weights = method_of("x", {**PUBLISHED, "tau": 100.0, "c_max": c_max}).weights(margins)
        assert weights.max().item() == pytest.approx(bound, rel=1e-9)
        assert margins[weights.argmax()].item() == pytest.approx(place, abs=2e-4)
        assert weights.min().item() > 0.0


def scored(h, margins):
    """Pairs with log-ratio margins `h` and scores `margins` apart."""
    zero, one = torch.zeros(len(h), dtype=torch.float64), torch.ones(len(h), dtype=torch.long)
    policy = torch.tensor(h, dtype=torch.float64).requires_grad_()
    return Logps(policy, one, zero, score=torch.tensor(margins, dtype=torch.float64)), Logps(
        zero, one, zero, score=zero
    )


def test_no_margin_is_dpo(f1):
    """R = 0: both labels are equally likely, whatever c is."""
    chosen, rejected = f1()
    dpo = method_of("x", {"method": "dpo", "beta": 0.1}).loss(chosen, rejected).losses
    same = torch.tensor([2.0, -7.0], dtype=torch.float64)
    for entry in (PUBLISHED, TAU_2, WIDE):
        found = method_of("x", entry).loss(replace(chosen, score=same), replace(rejected, score=same)).losses
        assert torch.equal(found, dpo)


def test_both_c_at_1_is_dpo_as_a_limit(with_margins):
    chosen, rejected = with_margins()
    dpo = method_of("x", {"method": "dpo", "beta": 0.1}).loss(chosen, rejected).losses
    gaps = [
        (method_of("x", {**TAU_2, "c_max": 1.0 + d, "c_min": 1.0 - d}).loss(chosen, rejected).losses - dpo).abs().max()
        for d in (1e-2, 1e-4, 1e-9)
    ]
    assert gaps[0] > 30 * gaps[1] > 0.0 and gaps[2] < 1e-9


def test_the_expected_loss_of_both_labels_is_smallest_at_c_times_the_margin():
    """Labels drawn with probability sigma(m): m = .8 and c = 1.4361026189 at tau 2, so x = 1.1488820951."""
    margin, target = 0.8, 1.1488820951
    method = method_of("x", TAU_2)
    weights = method.weights(torch.tensor([margin, -margin], dtype=torch.float64)).tolist()
    assert weights == pytest.approx([1.1004851463, 0.7763661942], rel=1e-9)
    likely = 1 / (1 + math.exp(-margin))
    slopes = []
    for x in (target - 0.01, target, target + 0.01):
        chosen, rejected = scored([x / 0.1, -x / 0.1], [margin, -margin])
        losses = method.loss(chosen, rejected).losses
        (likely * losses[0] + (1 - likely) * losses[1]).backward()
        slopes.append((chosen.policy.grad[0] - chosen.policy.grad[1]).item())
    assert slopes[0] < -1e-5 and slopes[1] == pytest.approx(0.0, abs=1e-11) and slopes[2] > 1e-5


def test_no_gradient_reaches_a_weight(with_margins):
    """A finite difference with the margins held is all there is, also where scores happen to require a gradient."""
    chosen, rejected = with_margins()
    method = method_of("x", TAU_2)
    loss = method.loss(replace(chosen, score=chosen.score.requires_grad_()), rejected)
    loss.losses.sum().backward()
    step = 1e-6
    moved = [
        method.loss(replace(chosen, policy=chosen.policy.detach() + s), rejected).losses.sum() for s in (step, -step)
    ]
    assert chosen.policy.grad.sum().item() == pytest.approx((moved[0] - moved[1]).item() / (2 * step), rel=1e-8)
    assert chosen.score.grad is None


def test_a_label_far_against_the_margin_counts_fully_again_and_is_counted():
    chosen, rejected = scored([1.0] * 5, [3.0, 0.0, -0.1, -1.999, -2.0])
    metrics = method_of("x", TAU_2).loss(chosen, rejected).metrics
    assert metrics["madpo/contradicted"].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert metrics["madpo/full_again"].tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert metrics["madpo/margin_abs"].tolist() == [3.0, 0.0, 0.1, 1.999, 2.0]
    assert metrics["madpo/weight"][4].item() == 1.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_margins_of_any_size_stay_finite(dtype):
    margins = torch.tensor([-1e4, -800.0, 0.0, 800.0, 1e4], dtype=dtype)
    for entry in (PUBLISHED, {**PUBLISHED, "c_min": 0.0}, {**PUBLISHED, "tau": 2e4}):
        assert method_of("x", entry).weights(margins).isfinite().all()


def test_scores_are_needed(f1):
    with pytest.raises(ValueError, match="score"):
        method_of("x", TAU_2).loss(*f1())


@pytest.mark.parametrize(
    ("key", "value"), [("c_max", 1.0), ("c_min", 1.0), ("c_min", -0.1), ("tau", 0.0), ("lam", 0.0)]
)
def test_refused_values(key, value):
    with pytest.raises(UserError, match=rf"runs\.x\.{key} = {value} is refused"):
        method_of("x", {**PUBLISHED, key: value})
