"""AMaPO on the worked example F1 as a whole step, d = (.5, -.15), and on made-up differences of mean log-probs."""

import math
from dataclasses import replace

import pytest
import torch

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError

ENTRY = {"method": "amapo", "beta": 2.0}


def method(**config):
    return method_of("x", {**ENTRY, **config})


def sides(d):
    """Chosen and rejected of one token each with these differences; the gradient of the chosen's is that of d."""
    values = torch.tensor(d, dtype=torch.float64)
    tokens = torch.ones(len(d), dtype=torch.long)
    return Logps((values - 3.0).requires_grad_(), tokens), Logps(torch.full_like(values, -3.0), tokens)


def step_of(d, **config):
    """The method inside a step of these differences, and the step's loss."""
    amapo, pairs = method(**config), sides(d)
    weights = amapo.before_step(amapo.looked_at(*pairs).detach(), torch.Generator())
    assert weights.tolist() == [1.0] * len(d)
    return amapo, amapo.loss(*pairs), pairs


def test_worked_example(holds_on_f1):
    gradients = [-0.0268941421, -0.0386863341], [0.0336176777, 0.0464236009]
    loss = holds_on_f1(ENTRY, [0.3132616875, 2.6376665503], 1.4754641189, *gradients)
    assert (loss.metrics["amapo/margin"] / 2.0).tolist() == pytest.approx([0.0, 1.1317257575], rel=1e-6)
    assert loss.chosen_rewards.tolist() == pytest.approx([-2.5, -2.75], rel=1e-6)
    assert loss.rejected_rewards.tolist() == pytest.approx([-3.5, -2.45], rel=1e-6)


@pytest.mark.parametrize(
    ("config", "mean", "chosen_gradient", "second_margin"),
    [
        ({"beta": 3.0}, 2.0338738802, [-0.0273638286, -0.0611915646], 3.0 * 1.1317257575),
        ({"exponent": "paper"}, 1.6152350316, [-0.0268941421, -0.0394131475], 2.5616063802),
        ({"beta": 3.0, "exponent": "paper"}, 2.5040875197, None, 3.0 * math.exp(3.0 * 0.2474873734 / 2.0)),
    ],
)
def test_worked_example_of_other_forms(holds_on_f1, config, mean, chosen_gradient, second_margin):
    loss = holds_on_f1({**ENTRY, **config}, None, mean, chosen_gradient, None)
    assert loss.metrics["amapo/margin"].tolist() == pytest.approx([0.0, second_margin], rel=1e-6)


def test_statistics_of_f1():
    amapo, _, _ = step_of([0.5, -0.15])
    row = {"amapo/mu": 0.175, "amapo/sd": 0.4596194078, "amapo/max_exponent": math.log(1.1317257575)}
    assert amapo.after_step(1, {}, None, None) == pytest.approx(row, rel=1e-9)
    paper, _, _ = step_of([0.5, -0.15], exponent="paper")
    assert paper.after_step(1, {}, None, None)["amapo/max_exponent"] == pytest.approx(0.2474873734, rel=1e-9)


FIVE = [-0.6, 0.1, 0.4, 0.9, 1.7]


def test_five_pairs():
    amapo, loss, (chosen, _) = step_of(FIVE)
    loss.losses.mean().backward()
    margins = [1.8912025394, 1.2607588210, 1.0596391701, 0.0, 0.0]
    losses = [4.9892392226, 2.4151214163, 1.5561892075, 0.1529776105, 0.0328284704]
    slopes = [-0.3972756624, -0.3642574044, -0.3156246464, -0.0567404260, -0.0129181859]
    assert (loss.metrics["amapo/margin"] / 2.0).tolist() == pytest.approx(margins, rel=1e-9)
    assert loss.losses.tolist() == pytest.approx(losses, rel=1e-9)
    assert loss.losses.mean().item() == pytest.approx(1.8292711855, rel=1e-9)
    # Of the mean with the margins held: none of the gradient comes from a margin, its mean or its spread.
    assert chosen.policy.grad.tolist() == pytest.approx(slopes, rel=1e-9, abs=1e-10)
    assert loss.metrics["amapo/active"].tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert loss.metrics["amapo/mu_negative"].tolist() == [0.0] * 5
    row = amapo.after_step(1, {}, None, None)
    assert (row["amapo/mu"], row["amapo/sd"]) == pytest.approx((0.5, 0.8631338251), rel=1e-9)
    assert row["amapo/max_exponent"] == pytest.approx(math.log(margins[0]), rel=1e-9)


def test_five_pairs_in_the_papers_form():
    _, loss, _ = step_of(FIVE, exponent="paper")
    margins = [3.5766470452, 1.5895128046, 1.1228351709, 0.0, 0.0]
    assert (loss.metrics["amapo/margin"] / 2.0).tolist() == pytest.approx(margins, rel=1e-9)


WORSE = [-0.6, -0.1, -0.4, -0.9, 0.3]  # mu = -.34


@pytest.mark.parametrize(
    ("config", "margins"),
    [
        ({}, [0.8256855117, 0.0, 0.9567608237, 0.6619597515, 0.0]),  # the worst pair has the smallest
        ({"exponent": "paper"}, [0.0, 1.4242063828, 0.0, 0.0, 2.5676026041]),  # the better pairs have one
        ({"when_negative": "none"}, [1.0, 0.0, 1.0, 1.0, 0.0]),
        ({"when_negative": "none", "exponent": "paper"}, [1.0, 0.0, 1.0, 1.0, 0.0]),
    ],
)
def test_a_negative_mean(config, margins):
    amapo, loss, _ = step_of(WORSE, **config)
    assert (loss.metrics["amapo/margin"] / 2.0).tolist() == pytest.approx(margins, rel=1e-9)
    assert loss.metrics["amapo/mu_negative"].tolist() == [1.0] * 5  # it is said
    row = amapo.after_step(1, {}, None, None)
    assert (row["amapo/mu"], row["amapo/sd"]) == pytest.approx((-0.34, 0.4615192304), rel=1e-9)


def test_with_a_positive_mean_when_negative_does_nothing():
    for exponent in ("code", "paper"):
        released, none = (step_of(FIVE, exponent=exponent, when_negative=x)[1].losses for x in ("released", "none"))
        assert torch.equal(released, none)


def test_the_whole_step_is_compared_however_it_is_split():
    """Statistics of each micro-batch alone make 1.4324438223 of (1, 2)(3, 4), 1.3680558313 of (1, 3)(2, 4)."""
    d = [0.5, -0.15, 0.9, 0.2]
    amapo, loss, _ = step_of(d)
    assert loss.losses.mean().item() == pytest.approx(1.4646642510, rel=1e-9)
    for split, alone in (
        ([[0, 1], [2, 3]], 1.4324438223),
        ([[0, 2], [1, 3]], 1.3680558313),
        ([[0], [1], [2, 3]], None),
    ):
        parts = [[d[place] for place in part] for part in split]
        together = torch.cat([amapo.loss(*sides(part)).losses for part in parts])
        assert together.mean().item() == pytest.approx(1.4646642510, rel=1e-9)
        if alone is not None:
            apart = torch.cat([step_of(part)[1].losses for part in parts])
            assert apart.mean().item() == pytest.approx(alone, rel=1e-9)


def test_no_gradient_reaches_a_margin():
    h = 1e-6
    _, loss, (chosen, rejected) = step_of(FIVE)
    loss.losses.mean().backward()
    margins = loss.metrics["amapo/margin"]

    def frozen(by):
        x = 2.0 * (chosen.policy.detach() + by - rejected.policy) - margins
        return -torch.nn.functional.logsigmoid(x) / 5.0

    torch.testing.assert_close(chosen.policy.grad, (frozen(h) - frozen(-h)) / (2 * h), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("d", [[0.3], [0.3, 0.3, 0.3], [0.3 + 1e-9, 0.3, 0.3]])
def test_one_pair_or_pairs_alike_have_no_margin(d):
    amapo, loss, _ = step_of(d)
    simpo = method_of("s", {"method": "simpo", "beta": 2.0, "gamma": 0.0}).loss(*sides(d)).losses
    assert torch.equal(loss.losses, simpo)
    row = {"amapo/mu": 0.3, "amapo/sd": 0.0, "amapo/max_exponent": 0.0}
    assert amapo.after_step(1, {}, None, None) == pytest.approx(row, abs=1e-8)


@pytest.mark.parametrize("exponent", ["code", "paper"])
@pytest.mark.parametrize("when_negative", ["released", "none"])
def test_a_pair_at_the_mean_has_no_margin(exponent, when_negative):
    _, loss, _ = step_of([1.0, 2.0, 3.0], exponent=exponent, when_negative=when_negative)
    assert loss.metrics["amapo/active"].tolist() == [1.0, 0.0, 0.0]


def test_an_exponent_that_overflows_without_need_stays_out():
    """Of the pair above the mean, which has no margin: infinity times 0 is NaN."""
    _, loss, _ = step_of([-1000.0, -1100.0, -900.0], exponent="code")
    assert loss.losses.isfinite().all() and loss.metrics["amapo/margin"][2].item() == 0.0


def test_a_diverged_step_reaches_the_loss():
    _, loss, _ = step_of([0.1, math.nan, 0.4])
    assert loss.losses.isnan().any()


def test_evaluation_has_no_margin_and_moves_nothing(f1):
    amapo, pairs = method(), f1()
    simpo = method_of("s", {"method": "simpo", "beta": 2.0, "gamma": 0.0}).loss(*pairs).losses
    assert torch.equal(amapo.loss(*pairs).losses, simpo)
    amapo.before_step(amapo.looked_at(*pairs).detach(), torch.Generator())
    assert not torch.equal(amapo.loss(*pairs).losses, simpo)  # still inside the step
    amapo.after_step(1, {}, None, None)
    assert torch.equal(amapo.loss(*pairs).losses, simpo)
    assert amapo.state_dict() == {}


def test_it_needs_no_reference_and_two_pairs(f1):
    amapo = method()
    assert not amapo.needs_reference and amapo.looks_ahead and amapo.min_pairs == 2
    chosen, rejected = (replace(side, reference=None) for side in f1())
    assert amapo.looked_at(chosen, rejected).tolist() == pytest.approx([0.5, -0.15], rel=1e-12)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"beta": 0.0}, r"runs\.x\.beta = 0.0 is refused"),
        ({"exponent": "both"}, r"runs\.x\.exponent = 'both' is refused"),
        ({"when_negative": None}, r"runs\.x\.when_negative = null is refused"),
        ({"pool": "step"}, r"unknown key 'runs\.x\.pool'"),
    ],
)
def test_meaningless_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method(**config)
