"""AlphaDPO on the worked example F1 as a whole step: g = (.16, -.12), its mean .02, its standard deviation .19799."""

import json
import math
from dataclasses import replace

import pytest
import torch

from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError

A = {"beta": 2.5, "gamma": 1.5, "alpha": 0.2, "momentum": 0.9}
B = {"beta": 10.0, "gamma": 4.0, "alpha": 0.05, "momentum": 0.9}
G = torch.tensor([0.16, -0.12], dtype=torch.float64)
STD = 0.1978989873  # unbiased


def entry(**config):
    return {"method": "alpha_dpo", **A, **config}


def method(**config):
    return method_of("a", entry(**config))


def after(steps, values=G, **config):
    """The method inside the `steps`-th step of these values."""
    alpha_dpo = method(**config)
    for _ in range(steps):
        assert alpha_dpo.before_step(values, torch.Generator()).tolist() == [1.0] * len(values)
    return alpha_dpo


@pytest.mark.parametrize(
    ("steps", "m", "s"),
    [
        (1, 0.002, 0.019798989873),
        (2, 0.0038, 0.037618080759),
        (5, 0.0081902, 0.081078843430),
        (10, 0.013026431198, 0.128955089687),
    ],
)
def test_the_averages_start_at_zero(steps, m, s):
    """S / std is 1 - .9^t: .1, .19, .40951, .6513215599. The correction divides by that."""
    plain, corrected = (after(steps, correction=correction) for correction in ("none", "adam"))
    assert plain.state_dict() == corrected.state_dict() == pytest.approx({"m": m, "s": s, "counted": steps}, rel=1e-9)
    assert plain.after_step(steps, {}, None, None) == pytest.approx({"alpha_dpo/m": m, "alpha_dpo/s": s}, rel=1e-9)
    row = corrected.after_step(steps, {}, None, None)
    assert row == pytest.approx({"alpha_dpo/m": 0.02, "alpha_dpo/s": G.std().item()}, rel=1e-12)


EXAMPLES = {
    "A none, step 1": (
        entry(correction="none"),
        1,
        [2.1960410204, -0.6323861044],
        [4.2544058833, 0.2619048190],
        2.2581553512,
        [-0.1232248093, -0.0120008193],
        [0.1540310116, 0.0144009831],
    ),
    "A none, step 2": (
        entry(correction="none"),
        2,
        [1.4304517235, -0.0581941317],
        [2.4193218649, 0.8144747371],
        1.6168983010,
        [-0.1138772577, -0.0290170890],
        None,
    ),
    "A adam, step 1": (
        entry(),
        1,
        [0.7414213562, 0.4585786438],
        [1.0397836634, 1.7189816233],
        1.3793826434,
        [-0.0808086056, -0.0427474689],
        [0.1010107570, 0.0512969627],
    ),
    "A adam, step 7": (
        entry(),
        7,
        [0.7414213562, 0.4585786438],
        [1.0397836634, 1.7189816233],
        1.3793826434,
        [-0.0808086056, -0.0427474689],
        [0.1010107570, 0.0512969627],
    ),
    "B none, step 1": (
        entry(**B, correction="none"),
        1,
        [0.7990102551, 0.0919034739],
        [3.0391615171, 2.5043014623],
        2.7717314897,
        [-0.4760624925, -0.1913056935],
        [0.5950781156, 0.2295668321],
    ),
    "B adam, step 1": (
        entry(**B),
        1,
        [0.4353553391, 0.3646446609],
        [0.4212755347, 5.1522497873],
        2.7867626610,
        [-0.1718953660, -0.2071278392],
        None,
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_examples(holds_on_f1, name):
    """c, the margin over beta, and what the released formulas make of it."""
    config, steps, c, losses, mean, chosen_gradient, rejected_gradient = EXAMPLES[name]
    loss = holds_on_f1(config, losses, mean, chosen_gradient, rejected_gradient, steps=steps)
    tolerance = 1e-9 if loss.losses.dtype == torch.float64 else 1e-5
    found = (loss.metrics["alpha_dpo/margin"] / config["beta"]).tolist()
    assert found == pytest.approx(c, rel=tolerance, abs=tolerance)
    # Rewards and loss are of mean log-probs, as SimPO's.
    assert loss.chosen_rewards.tolist() == pytest.approx([config["beta"] * a for a in (-1.25, -1.375)], rel=1e-6)
    assert loss.rejected_rewards.tolist() == pytest.approx([config["beta"] * a for a in (-1.75, -1.225)], rel=1e-6)


@pytest.mark.parametrize(
    ("correction", "zscores"), [("none", [7.9802051020, -6.1619305218]), ("adam", [0.7071067812, -0.7071067812])]
)
def test_z_scores_of_a_first_step(f1, correction, zscores):
    found = after(1, correction=correction).loss(*f1()).metrics
    assert found["alpha_dpo/zscore_abs"].tolist() == pytest.approx([abs(z) for z in zscores], rel=1e-9)
    margins = [A["gamma"] + A["beta"] * A["alpha"] * z for z in zscores]
    assert found["alpha_dpo/margin"].tolist() == pytest.approx(margins, rel=1e-9)


def test_the_papers_form_has_an_alpha_of_beta_times_ours(holds_on_f1):
    """gamma + alpha z instead of gamma + beta alpha z: with the same alpha another loss."""
    holds_on_f1(entry(alpha=0.2 / A["beta"]), None, 1.4020695858, None, None)


def test_with_alpha_zero_it_is_simpo_to_the_bit(f1):
    sides = f1()
    ours = after(1, alpha=0.0).loss(*sides)
    simpo = method_of("s", {"method": "simpo", "beta": A["beta"], "gamma": A["gamma"]}).loss(*sides)
    assert torch.equal(ours.losses, simpo.losses)
    assert torch.equal(ours.chosen_rewards, simpo.chosen_rewards)
    assert torch.equal(ours.rejected_rewards, simpo.rejected_rewards)


def test_a_surer_pair_gets_a_larger_margin(f1):
    first, second = after(1).loss(*f1()).metrics["alpha_dpo/margin"].tolist()
    assert first > A["gamma"] > second


def test_no_gradient_reaches_a_margin(f1):
    """The loss moves by what its rewards alone move it, though g depends on the policy's log-probs too."""
    alpha_dpo, (chosen, rejected) = after(1), f1()
    loss = alpha_dpo.loss(chosen, rejected)
    loss.losses.sum().backward()
    h, margins = 1e-5, loss.metrics["alpha_dpo/margin"]

    def frozen(by):
        d = (chosen.policy.detach() + by) / chosen.tokens - rejected.per_token.detach()
        return -torch.nn.functional.logsigmoid(A["beta"] * d - margins)

    torch.testing.assert_close(chosen.policy.grad, (frozen(h) - frozen(-h)) / (2 * h), rtol=1e-6, atol=1e-9)


def test_equal_policy_and_reference_are_simpo_and_finite(f1):
    """The released code divides 0 by 0 in the first step."""
    chosen, rejected = (replace(side, reference=side.policy.detach()) for side in f1())
    simpo = method_of("s", {"method": "simpo", "beta": A["beta"], "gamma": A["gamma"]}).loss(chosen, rejected)
    for correction in ("adam", "none"):
        alpha_dpo = after(1, alpha_values(chosen, rejected), correction=correction)
        loss = alpha_dpo.loss(chosen, rejected)
        assert torch.equal(loss.losses, simpo.losses)
        assert alpha_dpo.state_dict() == {"m": 0.0, "s": 0.0, "counted": int(correction == "none")}


def test_steps_in_which_nothing_differs_are_no_start(f1):
    """Policy and reference are equal in the first step, and under a warm-up from 0 in the second too."""
    chosen, rejected = f1()
    alpha_dpo = after(2, torch.zeros(2, dtype=torch.float64))
    alpha_dpo.before_step(alpha_values(chosen, rejected), torch.Generator())
    found = alpha_dpo.loss(chosen, rejected).metrics["alpha_dpo/zscore_abs"]
    assert found.tolist() == pytest.approx([math.sqrt(0.5)] * 2, rel=1e-9)
    assert after(1, 1e-4 * G).state_dict()["counted"] == 1  # little is not nothing


def alpha_values(chosen, rejected):
    return method().looked_at(chosen, rejected).detach()


def test_one_pair_moves_nothing_and_is_compared_with_what_was_before(f1):
    alpha_dpo, one = after(3), torch.tensor([0.5], dtype=torch.float64)
    state = alpha_dpo.state_dict()
    alpha_dpo.after_step(3, {}, None, None)
    assert alpha_dpo.before_step(one, torch.Generator()).tolist() == [1.0]
    assert alpha_dpo.state_dict() == state
    found = alpha_dpo.loss(*f1()).metrics["alpha_dpo/zscore_abs"]
    assert found.tolist() == pytest.approx([math.sqrt(0.5)] * 2, rel=1e-9)
    first = after(1, one)  # and where nothing was before, it is SimPO
    assert first.state_dict() == {"m": 0.0, "s": 0.0, "counted": 0}
    assert first.loss(*f1()).metrics["alpha_dpo/zscore_abs"].tolist() == [0.0, 0.0]


def test_a_diverged_step_reaches_the_loss(f1):
    assert after(1, torch.tensor([0.1, math.nan], dtype=torch.float64)).loss(*f1()).losses.isnan().all()


def test_the_split_does_not_matter(f1):
    """A step's pairs one by one are trained as all at once."""
    alpha_dpo, sides = after(1), f1()
    parts = [[replace_rows(side, slice(i, i + 1)) for side in sides] for i in range(2)]
    found = torch.cat([alpha_dpo.loss(*part).losses for part in parts])
    assert torch.equal(found, alpha_dpo.loss(*sides).losses)


def replace_rows(side, rows):
    return replace(side, policy=side.policy[rows], tokens=side.tokens[rows], reference=side.reference[rows])


def test_evaluation_is_simpo_and_leaves_the_state(f1):
    alpha_dpo, sides = method(), f1()
    simpo = method_of("s", {"method": "simpo", "beta": A["beta"], "gamma": A["gamma"]}).loss(*sides).losses
    assert torch.equal(alpha_dpo.loss(*sides).losses, simpo)
    alpha_dpo.before_step(G, torch.Generator())
    state = alpha_dpo.state_dict()
    assert not torch.equal(alpha_dpo.loss(*sides).losses, simpo)  # still inside the step
    alpha_dpo.after_step(1, {}, None, None)
    assert torch.equal(alpha_dpo.loss(*sides).losses, simpo) and alpha_dpo.state_dict() == state


def test_a_resumed_run_goes_on_as_the_first(f1):
    first, resumed, fresh = after(3), method(), method()
    first.after_step(3, {}, None, None)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert torch.equal(first.loss(*f1()).losses, resumed.loss(*f1()).losses)  # outside of a step
    following, losses = G.flip(0) + 0.05, []
    for alpha_dpo in (first, resumed, fresh):
        alpha_dpo.before_step(following, torch.Generator())
        losses.append(alpha_dpo.loss(*f1()).losses)
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])
    assert first.state_dict() == resumed.state_dict()


def test_an_empty_answer_scores_zero():
    """And one of a single token by that token."""
    policy, reference = torch.tensor([0.0, -4.0, -2.0]).double(), torch.tensor([0.0, -2.0, -1.5]).double()
    empty = Logps(policy, torch.tensor([0, 4, 1]), reference)
    whole = Logps(policy.roll(1), torch.tensor([1, 0, 4]), reference.roll(1))
    assert method().looked_at(empty, whole).tolist() == [0.5, -0.5, 0.0]
    assert after(1).loss(empty, whole).losses.isfinite().all()


def test_it_needs_a_reference_and_two_pairs():
    assert method().needs_reference and method().looks_ahead and method().min_pairs == 2


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"beta": 0.0}, r"runs\.a\.beta = 0.0 is refused"),
        ({"gamma": -0.1}, r"runs\.a\.gamma = -0.1 is refused"),
        ({"alpha": -0.1}, r"runs\.a\.alpha = -0.1 is refused"),
        ({"momentum": 1.0}, r"runs\.a\.momentum = 1.0 is refused"),
        ({"correction": "bias"}, r"runs\.a\.correction = 'bias' is refused"),
        ({"gamma_beta_ratio": 0.6}, r"unknown key 'runs\.a\.gamma_beta_ratio'"),
    ],
)
def test_meaningless_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method(**config)
