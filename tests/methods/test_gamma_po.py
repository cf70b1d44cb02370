"""γ-PO: how the margins of a step are shared out, on F1 in both forms and on made-up reward gaps."""

import json
import math
from dataclasses import replace

import pytest
import torch

from epsilon_dpo.methods.gamma_po import log_shares, shared_log_c
from epsilon_dpo.methods.interface import Logps
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError

SIMPO = {"method": "gamma_po", "form": "simpo", "beta": 2.5, "gamma": 1.375, "tau": 10.0}
DPO = {"method": "gamma_po", "form": "dpo", "beta": 0.1, "gamma": 0.5, "tau": 10.0}
C, D = [1.25, -0.375], [0.14, -0.27]  # the reward gaps of F1 in these two forms
FIVE = [-1.0, 0.2, 0.9, 2.5, 4.0]
QUEUE = [0.3, -0.7, 1.1, 0.2, -1.4, 0.6, -0.1, 0.9]


def margins_of(gaps, gamma, tau, log_c=None):
    """Margins of these gaps, the budget shared among themselves unless c is given."""
    values = torch.tensor(gaps, dtype=torch.float64)
    log_c = shared_log_c(values, gamma, tau) if log_c is None else log_c
    return gamma * log_shares(values, gamma, tau, log_c).exp()


def released(gaps, gamma, tau):
    """The released solver: 20 steps of exponentiated gradient; it returns the margins before its last update."""
    r, n = torch.tensor(gaps, dtype=torch.float64), len(gaps)
    p = torch.full((n,), 1.0 / n, dtype=torch.float64)
    for _ in range(20):
        margins = gamma * n * p
        gradient = tau * (1.0 + (n * (p + 1e-10)).log()) + gamma / (1.0 + (r - margins).exp())
        p = p * (-min(0.5 / tau, 1.0) * gradient).exp()
        p = p / p.sum()
    return margins


def first_step(method, gaps, seed=0):
    values = torch.tensor(gaps, dtype=torch.float64)
    assert method.before_step(values, torch.Generator().manual_seed(seed)).tolist() == [1.0] * len(gaps)
    return method


@pytest.mark.parametrize(
    ("gaps", "gamma", "tau", "margins", "c"),
    [
        (C, 1.375, 10.0, [1.4042747268, 1.3457252732], 1.5121971527),
        (C, 1.375, 1.0, [1.5962594156, 1.1537405844], 3.5716031528),
        (D, 0.5, 10.0, [0.5 + 0.0011742748, 0.5 - 0.0011742748], None),
        (D, 0.5, 1.0, [0.5 + 0.0111680064, 0.5 - 0.0111680064], None),
        (FIVE, 2.0, 20.0, [1.9329011098, 1.9517942030, 1.9728003668, 2.0445161833, 2.0979881372], None),
        (FIVE, 2.0, 10.0, [1.8681336064, 1.9058536504, 1.9467467052, 2.0847686297, 2.1944974084], 2.2573454891),
        (FIVE, 2.0, 1.0, [1.1080363459, 1.4116615457, 1.6759107916, 2.4663909983, 3.3380003184], 6.5926344183),
    ],
)
def test_worked_margins(gaps, gamma, tau, margins, c):
    found = margins_of(gaps, gamma, tau)
    assert found.tolist()[: len(margins)] == pytest.approx(margins, rel=1e-9, abs=1e-10)
    if c is not None:
        log_c = shared_log_c(torch.tensor(gaps, dtype=torch.float64), gamma, tau)
        assert gamma * math.exp(log_c) == pytest.approx(c, rel=1e-9)


def test_the_released_solver_comes_near_where_it_converges():
    """Worked numbers of its margins; for tau below .5 it does not arrive."""
    assert released(C, 1.375, 10.0).tolist() == pytest.approx([1.4042746988, 1.3457253012], rel=1e-9)
    assert released([*C, *QUEUE], 1.375, 10.0).tolist()[:2] == pytest.approx([1.4133693432, 1.3546482700], rel=1e-9)
    assert (released(D, 0.5, 10.0) - 0.5).tolist() == pytest.approx([0.0011742728, -0.0011742728], abs=1e-10)
    for tau in (1.0, 10.0, 20.0):
        assert (released(FIVE, 2.0, tau) - margins_of(FIVE, 2.0, tau)).abs().max() < 1e-6
    assert (released(FIVE, 2.0, 0.5) - margins_of(FIVE, 2.0, 0.5)).abs().max() > 0.01


@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0, 20.0])
@pytest.mark.parametrize("gaps", [FIVE, C, [*C, *QUEUE], [-300.0, 0.0, 0.0, 700.0]], ids=len)
def test_margins_are_the_stationary_point(tau, gaps):
    """A mean of gamma, larger for larger gaps, and the fixed point itself."""
    r, gamma = torch.tensor(gaps, dtype=torch.float64), 2.0
    log_c = shared_log_c(r, gamma, tau)
    margins = margins_of(gaps, gamma, tau, log_c)
    assert margins.mean().item() == pytest.approx(gamma, rel=1e-12)
    in_order = margins[r.argsort()]
    assert (in_order.diff() >= -1e-12).all()
    residual = margins - gamma * (log_c - gamma / tau * (margins - r).sigmoid()).exp()
    assert residual.abs().max() < 1e-12
    for other in (released(gaps, gamma, tau), margins * torch.linspace(0.9, 1.1, len(gaps))):
        shares = other / other.mean() * gamma
        assert cost(margins, r, gamma, tau) <= cost(shares, r, gamma, tau) + 1e-12


def cost(margins, r, gamma, tau):
    """What the shares p minimise: mean(-log sigma(r - gamma_i)) + tau KL(p || uniform), convex in p."""
    p = margins / margins.sum()
    divergence = torch.special.xlogy(p, p * len(p)).sum()
    return (-torch.nn.functional.logsigmoid(r - margins)).mean() + tau * divergence


def test_equal_gaps_have_gamma_each():
    assert margins_of([0.7] * 5, 2.0, 1.0).tolist() == pytest.approx([2.0] * 5, rel=1e-14)
    assert margins_of([0.7], 2.0, 1.0).tolist() == pytest.approx([2.0], rel=1e-14)


@pytest.mark.parametrize(
    ("entry", "losses", "mean", "chosen_gradient", "rejected_gradient"),
    [
        (
            {**SIMPO, "tau": 1.0},
            [0.8811895597, 1.7249720710],
            1.3030808153,
            [-0.0732137755, -0.0428032277],
            None,
        ),
        ({**DPO, "tau": 1.0}, None, 0.7308593084, [-0.0233918237, -0.0282174575], [0.0233918237, 0.0282174575]),
    ],
    ids=["simpo", "dpo"],
)
def test_worked_losses(holds_on_f1, entry, losses, mean, chosen_gradient, rejected_gradient):
    holds_on_f1(entry, losses, mean, chosen_gradient, rejected_gradient)


@pytest.mark.parametrize(
    ("entry", "gaps", "losses", "mean", "chosen_gradient", "rejected_gradient", "off"),
    [
        (
            SIMPO,
            C,
            [0.7732566696, 1.8853379078],
            1.3292972887,
            [-0.0673115450, -0.0441782415],
            [0.0841394312, 0.0530138898],
            3e-8,
        ),
        (
            DPO,
            D,
            [0.6261414577, 0.8365663826],
            0.7313539202,
            [-0.0232674601, -0.0283402300],
            [0.0232674601, 0.0283402300],
            3e-9,
        ),
    ],
    ids=["simpo", "dpo"],
)
def test_worked_losses_of_the_released_margins(f1, entry, gaps, losses, mean, chosen_gradient, rejected_gradient, off):
    """Printed for the margins after 20 of its steps, which are a little off; ours are as near to that."""
    chosen, rejected = f1()
    method = method_of("x", entry)
    target = released(gaps, entry["gamma"], 10.0) - (0.5 if entry is DPO else 0.0)
    found = -torch.nn.functional.logsigmoid(method.looked_at(chosen, rejected) - target)
    found.mean().backward()
    assert found.tolist() == pytest.approx(losses, rel=1e-9)
    assert found.mean().item() == pytest.approx(mean, rel=1e-9)
    assert chosen.policy.grad.tolist() == pytest.approx(chosen_gradient, abs=1e-10)
    assert rejected.policy.grad.tolist() == pytest.approx(rejected_gradient, abs=1e-10)
    torch.testing.assert_close(first_step(method, gaps).loss(*f1()).losses, found, rtol=0, atol=off)


@pytest.mark.parametrize(
    ("entry", "base"),
    [
        (SIMPO, {"method": "simpo", "beta": 2.5, "gamma": 1.375}),
        (DPO, {"method": "dpo", "beta": 0.1}),
    ],
    ids=["simpo", "dpo"],
)
class TestOfBothForms:
    def test_with_a_large_tau_it_is_its_base(self, f1, entry, base):
        pairs = f1()
        method = method_of("x", {**entry, "tau": 1e9})
        ours = first_step(method, method.looked_at(*pairs).tolist()).loss(*pairs)
        theirs = method_of("s", base).loss(*pairs)
        torch.testing.assert_close(ours.losses, theirs.losses, rtol=1e-9, atol=0)
        assert torch.equal(ours.chosen_rewards, theirs.chosen_rewards)
        assert torch.equal(ours.rejected_rewards, theirs.rejected_rewards)

    def test_evaluation_is_its_base_and_leaves_the_state(self, f1, entry, base):
        pairs = f1()
        method, theirs = method_of("x", {**entry, "pool": "queue"}), method_of("s", base).loss(*pairs).losses
        assert torch.equal(method.loss(*pairs).losses, theirs)
        first_step(method, method.looked_at(*pairs).tolist())
        state = method.state_dict()
        assert not torch.equal(method.loss(*pairs).losses, theirs)  # still inside the step
        method.after_step(1, {}, None, None)
        assert torch.equal(method.loss(*pairs).losses, theirs) and method.state_dict() == state

    def test_one_pair_is_its_base(self, f1, entry, base):
        """The last step of an epoch may hold one."""
        pairs = tuple(
            replace(side, policy=side.policy[:1], reference=side.reference[:1], tokens=side.tokens[:1]) for side in f1()
        )
        method = method_of("x", entry)
        ours = first_step(method, method.looked_at(*pairs).tolist()).loss(*pairs).losses
        torch.testing.assert_close(ours, method_of("s", base).loss(*pairs).losses, rtol=1e-13, atol=0)

    def test_no_gradient_reaches_a_margin(self, f1, entry, base):
        """The slope is that of the loss with the margins held."""
        chosen, rejected = f1()
        method = method_of("x", {**entry, "tau": 0.5})
        gaps = method.looked_at(chosen, rejected).detach()
        first_step(method, gaps.tolist()).loss(chosen, rejected).losses.sum().backward()
        margins, h = margins_of(gaps.tolist(), entry["gamma"], 0.5), 1e-5
        target = margins - (entry["gamma"] if entry["form"] == "dpo" else 0.0)

        def frozen(by):
            moved = replace(chosen, policy=chosen.policy.detach() + by)
            return -torch.nn.functional.logsigmoid(method.looked_at(moved, rejected).detach() - target)

        torch.testing.assert_close(chosen.policy.grad, (frozen(h) - frozen(-h)) / (2 * h), rtol=1e-6, atol=1e-9)

    def test_equal_policy_and_reference_are_finite(self, f1, entry, base):
        pairs = tuple(replace(side, reference=side.policy.detach()) for side in f1())
        method = method_of("x", entry)
        losses = first_step(method, method.looked_at(*pairs).tolist()).loss(*pairs).losses
        assert losses.isfinite().all()
        if entry["form"] == "dpo":  # every gap is 0
            assert losses.tolist() == pytest.approx([math.log(2.0)] * 2, rel=1e-12)

    def test_a_diverged_step_reaches_the_loss(self, f1, entry, base):
        chosen, rejected = f1()
        chosen = replace(chosen, policy=torch.tensor([math.nan, -33.0], dtype=torch.float64))
        method = method_of("x", entry)
        assert first_step(method, method.looked_at(chosen, rejected).tolist()).loss(chosen, rejected).losses[0].isnan()

    def test_the_split_does_not_matter(self, f1, entry, base):
        pairs = f1()
        method = method_of("x", entry)
        whole = first_step(method, method.looked_at(*pairs).tolist()).loss(*pairs).losses

        def row(side, i):
            one = {name: getattr(side, name)[i : i + 1] for name in ("policy", "tokens", "reference")}
            return replace(side, **one)

        apart = [method.loss(*(row(side, i) for side in pairs)).losses for i in range(2)]
        torch.testing.assert_close(torch.cat(apart), whole, rtol=1e-14, atol=0)


def test_the_form_decides_whether_there_is_a_reference(f1):
    without = tuple(replace(side, reference=None) for side in f1())
    simpo, dpo = method_of("x", SIMPO), method_of("x", DPO)
    assert not simpo.needs_reference and dpo.needs_reference and simpo.looks_ahead
    assert (simpo.min_pairs, method_of("x", WITH_QUEUE).min_pairs) == (2, 1)
    assert simpo.looked_at(*without).tolist() == pytest.approx(C, rel=1e-12)
    assert dpo.looked_at(*f1()).tolist() == pytest.approx(D, rel=1e-12)
    assert simpo.loss(*without).losses.isfinite().all()


def test_what_is_logged_is_of_the_steps_own_pairs():
    method = first_step(method_of("x", {**SIMPO, "gamma": 2.0, "tau": 1.0}), C)
    row = first_step(method, FIVE).after_step(2, {}, None, None)
    margins = margins_of(FIVE, 2.0, 1.0)
    expected = {"min": 1.1080363459, "max": 3.3380003184, "spread": margins.std(correction=0).item(), "c": 6.5926344183}
    assert row == pytest.approx({f"gamma_po/{name}": value for name, value in expected.items()}, rel=1e-9)


WITH_QUEUE = {**SIMPO, "pool": "queue"}


class TestQueue:
    def test_a_first_step_is_alone_and_the_next_one_is_not(self):
        """Worked numbers of C with eight gaps in the queue, all of which are drawn."""
        method = first_step(method_of("x", WITH_QUEUE), QUEUE)
        assert method.state_dict() == {"queue": QUEUE}
        assert method.log_c == pytest.approx(
            shared_log_c(torch.tensor(QUEUE, dtype=torch.float64), 1.375, 10.0), rel=1e-12
        )
        method.after_step(1, {}, None, None)
        row = first_step(method, C).after_step(2, {}, None, None)
        own, printed = (row["gamma_po/max"], row["gamma_po/min"]), (1.4133693432, 1.3546482700)
        assert own == pytest.approx(margins_of([*C, *QUEUE], 1.375, 10.0)[:2].tolist(), rel=1e-14)
        assert own == pytest.approx(printed, rel=5e-8)  # after 20 released steps
        assert method.state_dict() == {"queue": [*QUEUE, *C]}

    def test_the_pool_and_the_queue_have_their_sizes(self, monkeypatch):
        seen = []
        monkeypatch.setattr("epsilon_dpo.methods.gamma_po.shared_log_c", lambda gaps, *_: seen.append(gaps) or 0.0)
        method = method_of("x", WITH_QUEUE)
        gaps = torch.linspace(-1.0, 1.0, 300, dtype=torch.float64).tolist()
        for step in range(8):
            first_step(method, [gap + 10 * step for gap in gaps])
        first_step(method, gaps[:40])
        assert [len(pool) for pool in seen] == [300] * 8 + [256]  # a step above 256 takes none
        assert method.queue == [gap + 10 * step for step in range(8) for gap in gaps][-2048 + 40 :] + gaps[:40]
        own, drawn = seen[-1][:40], seen[-1][40:]
        assert own.tolist() == gaps[:40] and len(drawn.unique()) == 256 - 40  # without replacement

    def test_the_draw_repeats_by_the_generator_and_a_resumed_run_goes_on(self):
        torch.manual_seed(3)
        steps = [torch.randn(200, dtype=torch.float64).tolist() for _ in range(3)]
        first, resumed, other, fresh = (method_of("x", WITH_QUEUE) for _ in range(4))
        for gaps in steps[:2]:
            first_step(first, gaps)
        for method in (resumed, other):
            method.load_state_dict(json.loads(json.dumps(first.state_dict())))
        rows = [
            first_step(method, steps[2], seed).after_step(3, {}, None, None)
            for method, seed in ((first, 5), (resumed, 5), (other, 6), (fresh, 5))
        ]
        assert rows[0] == rows[1] and rows[0] != rows[2] and rows[0] != rows[3]
        assert first.state_dict() == resumed.state_dict()

    def test_without_a_queue_there_is_no_state(self):
        method = first_step(method_of("x", SIMPO), C)
        method.load_state_dict(method.state_dict())
        assert method.state_dict() == {}


def test_an_empty_answer_scores_zero():
    empty = Logps(torch.tensor([0.0, -4.0]).double(), torch.tensor([0, 4]))
    whole = Logps(torch.tensor([-4.0, 0.0]).double(), torch.tensor([4, 0]))
    method = method_of("x", SIMPO)
    assert method.looked_at(empty, whole).tolist() == [2.5, -2.5]
    assert first_step(method, [2.5, -2.5]).loss(empty, whole).losses.isfinite().all()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"form": "ipo"}, r"runs\.x\.form = 'ipo' is refused"),
        ({"beta": 0.0}, r"runs\.x\.beta = 0.0 is refused"),
        ({"gamma": 0.0}, r"runs\.x\.gamma = 0.0 is refused"),
        ({"tau": 0.0}, r"runs\.x\.tau = 0.0 is refused"),
        ({"tau": 0.01}, r"runs\.x.*gamma / tau must not exceed 100"),
        ({"pool": "rank"}, r"runs\.x\.pool = 'rank' is refused"),
    ],
)
def test_meaningless_config_is_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("x", {**SIMPO, **config})
