"""The sums of log-probs that a loss is given: their precision, and that stage `monotonicity` takes the same ones."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from epsilon_dpo.analysis.monotonicity import decisions as monotonicity
from epsilon_dpo.analysis.monotonicity.params import Monotonicity
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.models.logps.head import add_logps_head
from epsilon_dpo.training.alignment.pair_data import PairCollator, PairData
from epsilon_dpo.training.alignment.pair_logps import PairLogps
from epsilon_dpo.training.alignment.reference_model import SeparateModel

pytestmark = pytest.mark.numeric

EPSILON_DPO = {"method": "epsilon_dpo", "beta": 0.1, "epsilon": 0.1}
CONFIG = Monotonicity(epsilon=0.1, batch_size=8, token_chunk=7)


@pytest.fixture
def models(tiny_gemma):
    """A policy so near its reference that a perturbation changes less than float32 resolves in a sum."""
    policy, reference = tiny_gemma(0), tiny_gemma(0)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 1e-6 * torch.randn(parameter.shape, generator=generator).sign()
    add_logps_head(policy)
    add_logps_head(reference)
    return policy, reference


@pytest.fixture
def pairs(token_pairs):
    """Longest first, the order in which `monotonicity` batches them: both then see one and the same batch."""
    longest = lambda pair: len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))  # noqa: E731
    return sorted(token_pairs(8), key=longest, reverse=True)


def scorer_of(models, entry):
    AcceleratorState._reset_state(True)  # a training before in this process may have left its bfloat16
    method, accelerator = method_of("x", entry), Accelerator(cpu=True)
    reference = SeparateModel(models[1], accelerator) if method.needs_reference else None
    return PairLogps(method, reference, None, CONFIG.token_chunk, accelerator)


def scored(models, pairs, entry):
    """Chosen and rejected as the trainer hands them to the method of `entry`."""
    return scorer_of(models, entry).score(models[0], PairCollator(0)(pairs), {}, torch.Generator())


def test_training_and_monotonicity_decide_alike(models, pairs, monkeypatch, tmp_path):
    folders = dict(zip((tmp_path / "policy", tmp_path / "reference"), models, strict=True))
    monkeypatch.setattr(monotonicity, "load_policy", lambda folder, dtype: folders[folder])
    monkeypatch.setattr(monotonicity, "on_device", lambda model: model)
    records = monotonicity.decisions(*folders, pairs, CONFIG)
    chosen, rejected = scored(models, pairs, EPSILON_DPO)
    for field, name in (("policy", "z"), ("delta_minus", "delta_minus"), ("delta_plus", "delta_plus")):
        margins = getattr(chosen, field) - getattr(rejected, field)
        assert margins.tolist() == [record[name] for record in records]
    steps = method_of("x", EPSILON_DPO).loss(chosen, rejected).metrics["eps/mean_step"]
    assert steps.tolist() == [record["step"] for record in records]


def test_exact_changes_are_the_differences_of_the_definition(models, pairs):
    """And decide alike, but where a change is below the rounding of what the definition subtracts."""
    exact, definition = (
        scored(models, pairs, {**EPSILON_DPO, "step_precision": precision}) for precision in ("exact", "fp32")
    )
    for one, other in zip(exact, definition, strict=True):
        for name in ("minus", "plus"):
            difference = getattr(other, f"logps_beta_{name}") - other.policy.detach()
            torch.testing.assert_close(getattr(one, f"delta_{name}"), difference, rtol=1e-4, atol=1e-5)
    steps = [
        method_of("x", {**EPSILON_DPO, "step_precision": precision}).loss(*sides).metrics["eps/mean_step"]
        for precision, sides in (("exact", exact), ("fp32", definition))
    ]
    changes = [getattr(exact[0], name) - getattr(exact[1], name) for name in ("delta_minus", "delta_plus")]
    assert all(min(map(abs, pair)) < 1e-5 for pair in torch.stack(changes, 1)[steps[0] != steps[1]].tolist())
    assert steps[0].any()


def test_margins_ahead_of_a_step_are_those_of_its_loss(models, pairs):
    """Several micro-batches plan their step by the one, a single one by the other."""
    chosen, rejected = scored(models, pairs, EPSILON_DPO)
    ahead = scorer_of(models, EPSILON_DPO).looked_at(models[0], PairCollator(0)(pairs))
    torch.testing.assert_close(ahead, (chosen.logratios - rejected.logratios).detach(), rtol=0, atol=1e-12)


def test_what_is_known_before_a_step_is_each_sides_own(tiny_gemma, token_pairs):
    """Mean lengths, and mean log-ratios of the answers to other prompts, by the models' own logits."""
    longer = [{**pair, "rejected_ids": [*pair["chosen_ids"][:-1], 11, 23, 2]} for pair in token_pairs(6)]
    policy, reference, rows = tiny_gemma(0), tiny_gemma(1), PairData(longer, mismatched_by=3).rows

    def logp(model, row, side):
        prompt, answer = row["prompt_ids"].tolist(), row[side].tolist()
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            scores = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return scores.gather(1, ids[0, len(prompt) :, None]).sum().item()

    mean = lambda values: sum(values) / len(values)  # noqa: E731
    lengths, ratios = {}, {}
    for side in ("chosen", "rejected"):
        other = f"mismatched_{side}_ids"
        lengths[side] = mean([len(row[f"{side}_ids"]) for row in rows])
        ratios[side] = mean([logp(policy, row, other) - logp(reference, row, other) for row in rows])
    assert lengths["rejected"] == pytest.approx(lengths["chosen"] + 2) and abs(ratios["chosen"]) > 0.01

    add_logps_head(policy)
    scorer, batch = scorer_of((policy, reference), {"method": "kto", "beta": 0.1}), PairCollator(0)(rows)
    means = {name: values.mean().item() for name, values in scorer.known_before(policy, batch).items()}
    for side, found in zip(lengths, scorer.score(policy, batch, means, torch.Generator()), strict=True):
        assert found.mean_tokens == pytest.approx(lengths[side]), side
        assert found.mean_mismatched == pytest.approx(ratios[side], abs=1e-3), side


def count_passes(models, monkeypatch):
    """How often policy and reference run, counted from now on."""
    counted = [0, 0]
    for place, model in enumerate(models):

        def forward(*args, _place=place, _forward=model.model.forward, **kwargs):
            counted[_place] += 1
            return _forward(*args, **kwargs)

        monkeypatch.setattr(model.model, "forward", forward)
    return counted


def test_the_perturbed_policies_cost_no_pass_of_a_model(models, pairs, monkeypatch):
    """The paper's section 3.3; with its gradient, whose backward computes logits again but runs no model."""
    counted = count_passes(models, monkeypatch)
    for entry in ({"method": "dpo", "beta": 0.1}, EPSILON_DPO):
        before = list(counted)
        chosen, rejected = scored(models, pairs, entry)
        method_of("x", entry).loss(chosen, rejected).losses.sum().backward()
        assert [after - was for after, was in zip(counted, before, strict=True)] == [1, 1], entry
    assert chosen.delta_minus.abs().sum() > 0.0


@pytest.mark.parametrize(
    ("entry", "passes"),
    [
        ({"method": "alpha_dpo", "beta": 2.5, "gamma": 0.3, "alpha": 0.1, "momentum": 0.9}, [1, 1]),
        ({"method": "gamma_po", "form": "simpo", "beta": 2.5, "gamma": 0.3, "tau": 3.0}, [1, 0]),
        ({"method": "gamma_po", "form": "dpo", "beta": 0.3, "gamma": 0.3, "tau": 3.0}, [1, 1]),
        ({"method": "amapo", "beta": 2.0}, [1, 0]),
        ({"method": "beta_dpo", "beta": 0.3, "alpha": 0.6, "rho": 0.2, "momentum": 0.9}, [1, 1]),
    ],
    ids=["alpha_dpo", "gamma_po_simpo", "gamma_po_dpo", "amapo", "beta_dpo"],
)
def test_a_look_ahead_is_of_what_the_method_compares_and_costs_no_more(models, pairs, monkeypatch, entry, passes):
    """One pass of the policy, and one of the reference where there is one."""
    expected = method_of("x", entry).looked_at(*scored(models, pairs, entry)).detach()
    counted = count_passes(models, monkeypatch)
    ahead = scorer_of(models, entry).looked_at(models[0], PairCollator(0)(pairs))
    assert ahead.dtype == torch.float64 and not ahead.requires_grad and counted == passes
    torch.testing.assert_close(ahead, expected, rtol=0, atol=1e-12)


def test_a_flip_rate_is_the_pairs_own_on_both_sides(models, pairs):
    entry, rates = (
        {"method": "dpo", "beta": 0.3, "smoothing": "forward", "flip_by": "annotator"},
        [0.05, 0.0, 0.3, 0.1] * 2,
    )
    rated = [{**pair, "flip_rate": rate} for pair, rate in zip(pairs, rates, strict=True)]
    chosen, rejected = scored(models, rated, entry)
    assert chosen.flip_rate.tolist() == rejected.flip_rate.tolist() == rates
    one_by_one = [
        method_of("x", {**entry, "flip_by": None, "label_smoothing": rate, "smoothing": "forward" if rate else None})
        for rate in rates
    ]
    expected = [method.loss(chosen, rejected).losses[row].item() for row, method in enumerate(one_by_one)]
    assert method_of("x", entry).loss(chosen, rejected).losses.tolist() == pytest.approx(expected, rel=1e-12)
    assert scored(models, pairs, {"method": "dpo", "beta": 0.3})[0].flip_rate is None


def test_a_score_is_the_answers_own(models, pairs):
    """MADPO weighs a pair by how far its chosen answer's is above the rejected one's."""
    scores = [{"chosen_score": row % 3 / 2.0, "rejected_score": 0.25 - row} for row in range(8)]
    rows = PairData(pairs, scores=scores).rows
    chosen, rejected = scored(models, rows, {"method": "madpo", "beta": 0.3, "tau": 2.0})
    assert chosen.score.tolist() == [0.0, 0.5, 1.0, 0.0, 0.5, 1.0, 0.0, 0.5]
    assert rejected.score.tolist() == [0.25, -0.75, -1.75, -2.75, -3.75, -4.75, -5.75, -6.75]


def test_a_loss_is_float64_and_the_gradient_of_a_weight_is_not(models, pairs):
    for entry in (EPSILON_DPO, {"method": "pairwise_cringe", "alpha": 1.0, "k": 3, "b": 0.0, "tau": 5.0}):
        chosen, rejected = scored(models, pairs, entry)
        loss = method_of("x", entry).loss(chosen, rejected)
        config = [loss.losses, loss.chosen_rewards, loss.rejected_rewards, *loss.metrics.values()]
        assert {x.dtype for x in config} == {torch.float64}
        models[0].zero_grad()
        loss.losses.mean().backward()
        gradient = models[0].lm_head.weight.grad
        assert gradient.dtype == torch.float32 and gradient.isfinite().all() and gradient.any()


def test_official_bf16_rounds_float32_sums(models, pairs, monkeypatch):
    """Those of the released code: a GPU adds bfloat16 log-probs up in float32 and rounds once."""
    entry = {**EPSILON_DPO, "step_precision": "official_bf16"}
    seen = {}
    forward = models[0].forward

    def kept(*args, **kwargs):
        seen["tokens"] = forward(*args, **kwargs)
        return seen["tokens"]

    monkeypatch.setattr(models[0], "forward", kept)
    chosen, rejected = scored(models, pairs, entry)
    for name in ("policy", "reference", "logps_beta_minus", "logps_beta_plus"):
        sums = getattr(seen["tokens"], name).sum(-1)
        assert sums.dtype == torch.float32 and torch.equal(
            torch.cat([getattr(s, name) for s in (chosen, rejected)]), sums
        )
    assert method_of("x", entry).loss(chosen, rejected).losses.dtype == torch.float32
