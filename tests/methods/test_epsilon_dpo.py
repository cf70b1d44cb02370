"""ε-DPO on the worked example F2: three pairs given by their logits, whose decisions are +1, -1 and 0."""

import math

import pytest
import torch

from epsilon_dpo.errors import UserError
from epsilon_dpo.logps_kernel import Head, Reference, token_logps
from epsilon_dpo.methods.epsilon_dpo import epsilon_steps, next_beta
from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of

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


def sides(epsilon, dtype=torch.float64, shift=0.0, reference="R"):
    """Chosen and rejected of F2 through the log-prob kernel (logits = logits @ identity), policy sums with gradient."""
    generator = torch.Generator().manual_seed(1)
    result = []
    for side in ("w", "l"):
        rows = []
        for pair in F2:
            f, g = (torch.tensor(pair[model + side], dtype=dtype) for model in ("P", reference))
            f, g = (x + shift * torch.randn(len(x), 1, generator=generator, dtype=dtype) for x in (f, g))
            eye = Head(torch.eye(4, dtype=dtype))
            rows.append(token_logps(f, eye, torch.tensor(pair["y" + side]), 2, Reference(g, eye), epsilon, vocab_tile=3))
        sums = [torch.stack([row[field].sum() for row in rows]) for field in range(7)]
        policy, _, ref, p, n, kl_ref_policy, kl_policy_ref = sums
        tokens = torch.tensor([len(pair["y" + side]) for pair in F2])
        result.append(Logps(policy.requires_grad_(), tokens, ref, p, n, kl_ref_policy, kl_policy_ref))
    return result


def method(epsilon=0.1, beta=0.1):
    return method_of("e", {"method": "epsilon_dpo", "beta": beta, "epsilon": epsilon})


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_worked_example(dtype, tolerance):
    chosen, rejected = sides(0.1, dtype)
    loss = method().loss(chosen, rejected)
    loss.losses.mean().backward()
    close = lambda expected: pytest.approx(expected, rel=tolerance, abs=1e-10 if dtype == torch.float64 else 1e-6)  # noqa: E731
    margin = lambda field: (getattr(chosen, field) - getattr(rejected, field)).tolist()  # noqa: E731
    assert margin("policy") == close([-6.7338619628, -2.6637303866, -3.4292063671])
    assert margin("p_epsilon") == close([-6.6889465190, -2.6690679795, -3.4321685314])
    assert margin("n_epsilon") == close([-6.7827092437, -2.6605361039, -3.4344235481])
    assert chosen.kl_policy_ref.tolist() == close([0.2356461948, 0.2411337721, 0.4021968811])
    assert rejected.kl_policy_ref.tolist() == close([0.0647020467, 0.1405824638, 0.0377031883])
    assert loss.metrics["eps/mean_step"].tolist() == [1, -1, 0]
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
    assert (chosen.p_epsilon - rejected.p_epsilon)[2].item() == pytest.approx(-3.4291312337, abs=1e-10)
    assert (chosen.n_epsilon - rejected.n_epsilon)[2].item() == pytest.approx(-3.4293633250, abs=1e-10)


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
    loss = method(epsilon=epsilon).loss(chosen, rejected)
    loss.losses.mean().backward()
    assert loss.losses.tolist() == pytest.approx(losses, abs=1e-10)
    assert chosen.policy.grad.tolist() == pytest.approx(gradient, abs=1e-10)
    assert rejected.policy.grad.tolist() == pytest.approx([-g for g in gradient], abs=1e-10)


def test_ties_stay():
    z = torch.tensor([1.0, 1.0, 1.0])
    assert epsilon_steps(z, z, z).tolist() == [0, 0, 0]
    assert epsilon_steps(z, z + torch.tensor([1.0, 0.0, 1.0]), z - torch.tensor([0.0, 1.0, 1.0])).tolist() == [0, 0, 1]


def test_equal_policy_and_reference_are_an_exact_tie():
    chosen, rejected = sides(0.1, torch.float32, reference="P")
    loss = method().loss(chosen, rejected)
    assert loss.metrics["eps/mean_step"].tolist() == [0, 0, 0]
    assert loss.losses.tolist() == pytest.approx([math.log(2.0)] * 3, rel=1e-6)


def test_constants_per_position_change_nothing():
    plain, shifted = sides(0.1), sides(0.1, shift=3.0)
    for left, right in zip(plain, shifted, strict=True):
        for field in ("policy", "reference", "p_epsilon", "n_epsilon", "kl_ref_policy", "kl_policy_ref"):
            torch.testing.assert_close(getattr(right, field), getattr(left, field), rtol=0, atol=1e-12)


def test_the_derivative_of_the_margin_is_log_ratio_minus_kl():
    step = 1e-5
    chosen, rejected = sides(step)
    z_p, z_n = chosen.p_epsilon - rejected.p_epsilon, chosen.n_epsilon - rejected.n_epsilon
    d1 = method(epsilon=step).loss(chosen, rejected).metrics["eps/d1"]
    torch.testing.assert_close((z_p - z_n) / (2 * step), d1, rtol=0, atol=1e-8)


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


def test_beta_rule_of_the_code_not_of_the_paper():
    """p = .5, n = .25: the paper's rule would give .099757475748."""
    assert next_beta(0.1, 0.01, 0.25) == pytest.approx(0.099750623441, abs=1e-12)
    assert next_beta(0.1, 0.01, 0.0) == 0.1


def test_beta_survives_a_checkpoint_and_sets_the_next_loss():
    moved, fresh = method(), method()
    moved.after_step(1, {"eps/mean_step": 1.0}, None, None)
    fresh.load_state_dict(moved.state_dict())
    assert fresh.beta == moved.beta == 0.1 / 1.1
    chosen, rejected = sides(0.1)
    assert torch.equal(fresh.loss(chosen, rejected).losses, moved.loss(chosen, rejected).losses)
    assert not torch.equal(fresh.loss(chosen, rejected).losses, method().loss(chosen, rejected).losses)


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ({"epsilon": 1.0}, r"runs\.e\.epsilon = 1.0 is refused"),
        ({"epsilon": 0.0}, r"runs\.e\.epsilon = 0.0 is refused"),
        ({"epsilon": 0.1, "label_smoothing": 0.1}, r"unknown key 'runs\.e\.label_smoothing'"),
    ],
)
def test_meaningless_numbers_are_refused(numbers, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("e", {"method": "epsilon_dpo", "beta": 0.1, **numbers})
