"""ε-DPO on the worked example F2: three pairs given by their logits, whose decisions are +1, -1 and 0."""

import math
import re
from pathlib import Path

import pytest
import torch

import epsilon_dpo
from epsilon_dpo.methods import epsilon_dpo as source
from epsilon_dpo.methods.epsilon_dpo import beta_by_paper, beta_by_released, epsilon_steps
from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.models.logps.kernel import Head, Reference, token_logps
from epsilon_dpo.pipeline.observability.errors import UserError

pytestmark = pytest.mark.numeric

# Per pair: tokens of y_w and y_l, then the logits of policy and reference along each, [T, V=4].
F2 = [
    {
        "yw": [3, 2, 2],
        "yl": [1, 1],
        "Pw": [[-0.7, -1.4, 0.6, -1.7], [0.1, -0.5, -1.8, 0.0], [-1.9, -0.3, -1.7, -1.6]],
        "Pl": [[-0.3, 1.3, -1.5, -1.1], [0.5, 1.8, 0.3, -0.4]],
        "Rw": [[0.1, -2.1, 1.2, -2.0], [-0.5, -1.1, -2.1, 0.5], [-2.4, -0.2, -1.5, -1.8]],
        "Rl": [[-0.2, 0.6, -2.2, -1.6], [0.8, 1.7, 0.0, -0.3]],
    },
    {
        "yw": [2, 1, 1],
        "yl": [3, 3],
        "Pw": [[0.8, -1.0, 0.3, 0.1], [1.5, 0.9, -0.8, 1.9], [-1.5, -0.3, 1.0, -1.4]],
        "Pl": [[0.0, -1.8, 0.7, 1.1], [0.3, 1.5, -0.7, 0.8]],
        "Rw": [[1.0, -0.9, 0.2, 0.6], [2.2, 0.9, -0.5, 1.2], [-1.2, -0.1, 1.8, -0.9]],
        "Rl": [[-0.3, -2.0, 1.0, 0.3], [0.2, 1.0, -1.3, 0.1]],
    },
    {
        "yw": [2, 0, 2],
        "yl": [1, 3],
        "Pw": [[1.7, 1.9, 1.7, 1.4], [0.0, 1.9, 1.6, 0.1], [0.6, 1.7, 0.0, 0.0]],
        "Pl": [[-1.7, -1.5, 0.2, -0.1], [-1.0, 0.1, 0.6, 2.0]],
        "Rw": [[1.1, 1.8, 2.5, 1.8], [-0.1, 1.5, 2.2, 0.3], [-0.2, 2.4, -0.5, 0.4]],
        "Rl": [[-1.1, -1.1, 0.8, 0.2], [-1.5, 0.0, -0.2, 1.2]],
    },
]


def sides(epsilon, dtype=torch.float64, shift=0.0, reference="R", precision="exact"):
    """Chosen and rejected of F2 through the log-prob kernel (logits = logits @ identity), policy sums with gradient."""
    generator = torch.Generator().manual_seed(1)
    result = []
    for side in ("w", "l"):
        rows = []
        for pair in F2:
            f, g = (torch.tensor(pair[model + side], dtype=dtype) for model in ("P", reference))
            f, g = (x + shift * torch.randn(len(x), 1, generator=generator, dtype=dtype) for x in (f, g))
            eye = Head(torch.eye(4, dtype=dtype))
            labels = torch.tensor(pair["y" + side])
            rows.append(token_logps(f, eye, labels, 2, Reference(g, eye), epsilon, precision, vocab_tile=3)._asdict())
        fields = [name for name, values in rows[0].items() if values is not None]
        sums = {name: torch.stack([row[name].sum() for row in rows]) for name in fields}
        sums["policy"].requires_grad_()
        result.append(Logps(tokens=torch.tensor([len(pair["y" + side]) for pair in F2]), **sums))
    return result


def z_of(chosen, rejected, which):
    """z_minus or z_plus, [B]: counted from z where the changes were computed."""
    margin = lambda name: getattr(chosen, name) - getattr(rejected, name)  # noqa: E731
    if chosen.delta_minus is None:
        return margin(f"logps_beta_{which}")
    return margin("policy").detach() + margin(f"delta_{which}")


def method(epsilon=0.1, beta=0.1, **config):
    return method_of("e", {"method": "epsilon_dpo", "beta": beta, "epsilon": epsilon, **config})


@pytest.mark.parametrize("precision", ["exact", "fp32"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_worked_example(dtype, tolerance, precision):
    chosen, rejected = sides(0.1, dtype, precision=precision)
    loss = method(step_precision=precision, label_smoothing=0.0).loss(chosen, rejected)
    assert not any(x.requires_grad for x in (loss.chosen_rewards, loss.rejected_rewards, *loss.metrics.values()))
    loss.losses.mean().backward()
    close = lambda expected: pytest.approx(expected, rel=tolerance, abs=1e-10 if dtype == torch.float64 else 1e-6)  # noqa: E731
    margin = lambda field: (getattr(chosen, field) - getattr(rejected, field)).tolist()  # noqa: E731
    assert margin("policy") == close([-6.7338619628, -2.6637303866, -3.4292063671])
    assert z_of(chosen, rejected, "minus").tolist() == close([-6.6889465190, -2.6690679795, -3.4321685314])
    assert z_of(chosen, rejected, "plus").tolist() == close([-6.7827092437, -2.6605361039, -3.4344235481])
    assert chosen.kl_policy_ref.tolist() == close([0.2356461948, 0.2411337721, 0.4021968811])
    assert rejected.kl_policy_ref.tolist() == close([0.0647020467, 0.1405824638, 0.0377031883])
    assert loss.metrics["eps/mean_step"].tolist() == [1, -1, 0]
    assert loss.metrics["eps/mean_abs"].tolist() == close([0.0449154438, 0.0053375929, 0.0029621643])
    assert loss.metrics["eps/d1"].tolist() == close([0.4690466411, -0.0426586706, 0.0116078958])
    assert loss.losses.tolist() == close([0.6644797588, 0.6899360951, 0.6745189062])
    assert loss.losses.mean().item() == close(0.6763115867)
    gradient = [-0.0147108744, -0.0184589584, -0.0163532856]
    assert chosen.policy.grad.tolist() == close(gradient)
    assert rejected.policy.grad.tolist() == close([-g for g in gradient])


def test_a_smaller_epsilon_moves_the_third_pair():
    chosen, rejected = sides(0.01)
    loss = method(epsilon=0.01).loss(chosen, rejected)
    assert loss.metrics["eps/mean_step"].tolist() == [1, -1, 1]
    assert z_of(chosen, rejected, "minus")[2].item() == pytest.approx(-3.4291312337, abs=1e-10)
    assert z_of(chosen, rejected, "plus")[2].item() == pytest.approx(-3.4293633250, abs=1e-10)


@pytest.mark.parametrize(
    ("epsilon", "losses", "gradient"),
    [
        (0.01, [0.6262400549, 0.8387796650], [-0.0230396987, -0.0286748648]),
        (0.1, [0.6315342452, 0.8543552445], [-0.0212829409, -0.0319134732]),
    ],
)
def test_f1_with_given_decisions(epsilon, losses, gradient):
    make = lambda values: torch.tensor(values, dtype=torch.float64)  # noqa: E731
    # z = (1.5, -8.5); the perturbed margins lie around it so that the decisions are +1 and -1.
    chosen = Logps(
        make([-12.5, -33.0]).requires_grad_(),
        torch.tensor([10, 24]),
        make([-13.1, -31.2]),
        make([-12.4, -33.1]),
        make([-12.6, -32.9]),
        make([0.0, 0.0]),
        make([0.0, 0.0]),
    )
    rejected_logps = make([-14.0, -24.5])
    rejected = Logps(
        rejected_logps.clone().requires_grad_(),
        torch.tensor([8, 20]),
        make([-13.2, -25.4]),
        rejected_logps,
        rejected_logps,
        make([0.0, 0.0]),
        make([0.0, 0.0]),
    )
    loss = method(epsilon=epsilon, step_precision="fp32").loss(chosen, rejected)
    loss.losses.mean().backward()
    assert loss.losses.tolist() == pytest.approx(losses, abs=1e-10)
    assert chosen.policy.grad.tolist() == pytest.approx(gradient, abs=1e-10)
    assert rejected.policy.grad.tolist() == pytest.approx([-g for g in gradient], abs=1e-10)


def test_ties_stay():
    z = torch.tensor([1.0, 1.0, 1.0])
    assert epsilon_steps(z, z, z).tolist() == [0, 0, 0]
    above, below = z + torch.tensor([1.0, 0.0, 1.0]), z - torch.tensor([0.0, 1.0, 1.0])
    assert epsilon_steps(z, above, below).tolist() == [0, 0, 1]
    assert epsilon_steps(z, below, above).tolist() == [0, 0, -1]


@pytest.mark.parametrize("precision", ["exact", "fp32"])
def test_equal_policy_and_reference_are_an_exact_tie(precision):
    chosen, rejected = sides(0.1, torch.float32, reference="P", precision=precision)
    loss = method(step_precision=precision).loss(chosen, rejected)
    assert loss.metrics["eps/mean_step"].tolist() == [0, 0, 0]
    assert loss.losses.tolist() == pytest.approx([math.log(2.0)] * 3, rel=1e-6)


@pytest.mark.parametrize(
    ("precision", "perturbed"),
    [("exact", ("delta_minus", "delta_plus")), ("fp32", ("logps_beta_minus", "logps_beta_plus"))],
)
def test_constants_per_position_change_nothing(precision, perturbed):
    plain, shifted = sides(0.1, precision=precision), sides(0.1, shift=3.0, precision=precision)
    for left, right in zip(plain, shifted, strict=True):
        for field in ("policy", "reference", *perturbed, "kl_ref_policy", "kl_policy_ref"):
            torch.testing.assert_close(getattr(right, field), getattr(left, field), rtol=0, atol=1e-12)


def test_the_derivative_of_the_margin_is_log_ratio_minus_kl():
    step = 1e-5
    for precision in ("exact", "fp32"):
        chosen, rejected = sides(step, precision=precision)
        z_minus, z_plus = (z_of(chosen, rejected, which) for which in ("minus", "plus"))
        d1 = method(epsilon=step, step_precision=precision).loss(chosen, rejected).metrics["eps/d1"]
        torch.testing.assert_close((z_minus - z_plus) / (2 * step), d1, rtol=0, atol=1e-8)


def test_a_vanishing_epsilon_is_dpo():
    chosen, rejected = sides(1e-9)
    ours = method(epsilon=1e-9).loss(chosen, rejected)
    dpo = method_of("d", {"method": "dpo", "beta": 0.1}).loss(chosen, rejected)
    torch.testing.assert_close(ours.losses, dpo.losses, rtol=0, atol=1e-9)
    assert torch.equal(ours.chosen_rewards, dpo.chosen_rewards)


def test_beta_follows_the_released_trainer():
    """Its trajectory on a tiny Gemma-2 (ε .01), printed there in float32."""
    moved = method(epsilon=0.01)
    logged = [moved.after_step(t, {"eps/mean_step": m}, None, None) for t, m in enumerate((0, -0.25, 0.25, 0, 0.5), 1)]
    trajectory = [row["eps/beta_next"] for row in logged]
    assert trajectory == pytest.approx([0.1, 0.10025062, 0.10000062, 0.10000062, 0.09950311], abs=1e-8)
    assert [row["eps/beta"] for row in logged] == [0.1, *trajectory[:-1]]


@pytest.mark.parametrize(
    ("lowered", "raised", "epsilon", "paper", "released"),
    [
        (0.5, 0.25, 0.01, 0.099757475748, 0.099750623441),
        (0.5, 0.5, 0.01, 0.100010001000, 0.1),
        (0.5, 0.25, 0.1, 0.098232323232, 0.097560975610),
        (0.3, 0.1, 0.1, 0.098383838384, 0.098039215686),
    ],
)
def test_both_rules_of_the_next_beta(lowered, raised, epsilon, paper, released):
    assert beta_by_paper(0.1, epsilon, lowered, raised) == pytest.approx(paper, abs=1e-12)
    assert beta_by_released(0.1, epsilon, lowered - raised) == pytest.approx(released, abs=1e-12)
    means = {"eps/mean_step": lowered - raised, "eps/lowered": lowered, "eps/raised": raised}
    for rule, expected in (("paper", paper), ("released", released)):
        assert method(epsilon, beta_update=rule).after_step(1, means, None, None)["eps/beta_next"] == pytest.approx(
            expected, abs=1e-12
        )


def test_the_example_after_its_step():
    """F2's decisions are +1, -1 and 0."""
    chosen, rejected = sides(0.1)
    means = {name: values.mean().item() for name, values in method().loss(chosen, rejected).metrics.items()}
    for rule, expected in (("released", 0.1), ("paper", 0.100673400673)):
        row = method(beta_update=rule).after_step(1, means, None, None)
        assert row["eps/beta_next"] == pytest.approx(expected, abs=1e-12)


def test_comparison_and_step_have_an_epsilon_each():
    """F2 with the decisions of ε = .01 (the third pair moves) and the betas of ε = .1."""
    apart = method(epsilon=0.5, eps_c=0.01, eps_s=0.1)
    assert apart.eps_c == 0.01
    loss = apart.loss(*sides(0.01))
    assert loss.metrics["eps/mean_step"].tolist() == [1, -1, 1]
    betas = [0.1 / 1.1, 0.1 / 0.9, 0.1 / 1.1]
    h = [0.6399907892, 0.0578926377, 0.3761015886]
    expected = [math.log1p(math.exp(-b * x)) for b, x in zip(betas, h, strict=True)]
    assert loss.losses.tolist() == pytest.approx(expected, abs=1e-10)
    assert apart.after_step(1, {"eps/mean_step": 1.0}, None, None)["eps/beta_next"] == 0.1 / 1.1
    by_paper = method(epsilon=0.5, eps_c=0.01, eps_s=0.1, beta_update="paper")
    row = by_paper.after_step(1, {"eps/lowered": 0.5, "eps/raised": 0.25}, None, None)
    assert row["eps/beta_next"] == pytest.approx(0.1 * (0.5 / 1.1 + 0.25 / 0.9 + 0.25), rel=1e-12)


def bf16(x):
    return x.to(torch.bfloat16).float()


def released_margins(pair_logits, epsilon):
    """z, z_minus, z_plus and h of one pair as the released code computes them in bfloat16 on a GPU: operation by
    operation in float32 and rounded once after each; written for whole [T, V] logits."""
    seq = {}
    for side, (f, g, labels) in pair_logits.items():
        f, g = bf16(f), bf16(g)
        part = bf16(epsilon * g)
        mixed = {
            "pi": f,
            "ref": g,
            "minus": bf16(bf16((1 + epsilon) * f) - part),
            "plus": bf16(bf16((1 - epsilon) * f) + part),
        }
        for name, q in mixed.items():
            token = bf16(q.gather(1, labels[:, None])[:, 0] - q.logsumexp(1))
            seq[name, side] = bf16(token.sum())
    margin = {name: bf16(seq[name, "w"] - seq[name, "l"]) for name in ("pi", "ref", "minus", "plus")}
    return margin["pi"], margin["minus"], margin["plus"], bf16(margin["pi"] - margin["ref"])


def random_pairs(count, spread):
    """Logits of policy and reference for pairs of 20 to 40 tokens over a vocabulary of 64; `spread` apart."""
    generator = torch.Generator().manual_seed(11)
    for _ in range(count):
        pair = {}
        for side in ("w", "l"):
            length = int(torch.randint(20, 41, (), generator=generator))
            g = 2 * torch.randn(length, 64, generator=generator)
            f = g + spread * torch.randn(length, 64, generator=generator)
            pair[side] = (f, g, torch.randint(64, (length,), generator=generator))
        yield pair


def scored(pair, epsilon, precision):
    eye = Head(torch.eye(64))
    found = []
    for f, g, labels in pair.values():
        tokens = token_logps(f, eye, labels, 16, Reference(g, eye), epsilon, precision, vocab_tile=20)
        sums = {name: x.sum()[None] for name, x in tokens._asdict().items() if x is not None}
        found.append(Logps(tokens=torch.tensor([len(labels)]), **sums))
    return found


def test_official_bf16_is_the_released_arithmetic_bit_for_bit():
    decided = []
    for pair in random_pairs(100, 1.0):
        z, z_minus, z_plus, h = released_margins(pair, 0.2)
        loss = method(epsilon=0.2, step_precision="official_bf16").loss(*scored(pair, 0.2, precision="official_bf16"))
        assert loss.metrics["eps/mean_step"].item() == epsilon_steps(z, z_minus, z_plus).item()
        assert loss.metrics["eps/mean_abs"].item() == (z_minus - z).abs().item()
        beta = 0.1 / (1 + 0.2 * epsilon_steps(z, z_minus, z_plus))
        assert loss.losses.item() == -torch.nn.functional.logsigmoid(beta * h).item()
        decided.append(int(loss.metrics["eps/mean_step"].item()))
    assert min(decided.count(step) for step in (-1, 0, 1)) >= 5


def test_bfloat16_ties_where_float32_decides():
    """The dead zone: sums of a hundred nats move in steps of half a nat, so few pairs pass the strict inequalities."""
    pairs = list(random_pairs(40, 0.05))
    kept = {}
    for precision in ("fp32", "official_bf16"):
        chosen = method(epsilon=0.01, step_precision=precision)
        losses = [chosen.loss(*scored(pair, 0.01, precision)) for pair in pairs]
        kept[precision] = sum(loss.metrics["eps/kept"].item() for loss in losses)
    assert kept["fp32"] <= 4 and kept["official_bf16"] >= 36


def test_equal_models_tie_in_official_bf16():
    pair = next(iter(random_pairs(1, 0.0)))
    loss = method(epsilon=0.01, step_precision="official_bf16").loss(*scored(pair, 0.01, precision="official_bf16"))
    assert loss.metrics["eps/kept"].item() == 1.0 and loss.losses.item() == pytest.approx(math.log(2.0))


def test_beta_survives_a_checkpoint_and_sets_the_next_loss_and_both_rewards():
    moved, fresh = method(), method()
    moved.after_step(1, {"eps/mean_step": 1.0}, None, None)
    fresh.load_state_dict(moved.state_dict())
    assert fresh.beta == moved.beta == 0.1 / 1.1
    chosen, rejected = sides(0.1)
    found = fresh.loss(chosen, rejected)
    assert torch.equal(found.losses, moved.loss(chosen, rejected).losses)
    assert not torch.equal(found.losses, method().loss(chosen, rejected).losses)
    for rewards, side in ((found.chosen_rewards, chosen), (found.rejected_rewards, rejected)):
        expected = 0.1 / 1.1 * (side.policy.detach() - side.reference)
        torch.testing.assert_close(rewards, expected, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"epsilon": 1.0}, r"runs\.e\.epsilon = 1.0 is refused"),
        ({"epsilon": 0.0}, r"runs\.e\.epsilon = 0.0 is refused"),
        ({"epsilon": 0.1, "label_smoothing": 0.1}, r"label_smoothing = 0.1 is refused: ε-DPO has no label smoothing"),
        ({"epsilon": 0.1, "beta_update": "code"}, r"beta_update = 'code' is refused: .*'released' or 'paper'"),
        ({"epsilon": 0.1, "eps_s": 1.0}, r"runs\.e\.eps_s = 1.0 is refused"),
    ],
)
def test_meaningless_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("e", {"method": "epsilon_dpo", "beta": 0.1, **config})


def test_the_places_that_the_docstring_names_exist():
    """`function` of epsilon_dpo/file.py, as a reader of the file would look for it."""
    doc = " ".join(source.__doc__.split())
    named = re.findall(r"`(\w+)` of (epsilon_dpo/[\w/]+\.py)", doc)
    assert {name for name, _ in named} == {"_sweep", "of_pair", "finish_step", "Totals"}
    for name, path in named:
        text = (Path(epsilon_dpo.__path__[0]).parent / path).read_text("utf-8")
        assert re.search(rf"^ *(def|class) {name}\b", text, re.M), (name, path)


def test_the_file_has_the_loss_and_the_next_beta_on_its_first_screen():
    """In the paper's order: who opens it for the loss reads 40 lines, for the rules of beta 60."""
    lines = Path(source.__file__).read_text("utf-8").splitlines()
    formulas = ("epsilon_loss", "epsilon_steps", "beta_by_released", "beta_by_paper")
    places = [next(i for i, line in enumerate(lines, 1) if line.startswith(f"def {name}(")) for name in formulas]
    assert places == sorted(places) and places[0] <= 40 and places[-1] <= 60 and len(lines) <= 150
