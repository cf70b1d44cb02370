"""Our losses against TRL 1.16 on the same batches: TRL's trainers prepare the text, compute the loss and its gradients.

Each comparison runs twice: in float32, where TRL is as it ships and the rounding of its fused head shows, and with
every float32 of TRL widened to float64, where nothing but the formulas is left.
"""

import contextlib
from dataclasses import replace

import pytest
import torch
from accelerate.state import GradientState
from transformers import AutoTokenizer, TrainerCallback
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl_trainers import Step, batch_of, float32_means_float64, gradients, our_form, step_of, trainer_of

from epsilon_dpo.methods.interface import Logps, nll
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.models.logps.head import Scoring, add_logps_head, head_of
from epsilon_dpo.models.logps.kernel import Reference
from epsilon_dpo.training.alignment.pair_data import PairCollator

pytestmark = pytest.mark.numeric

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-9}


class Both:
    """The same models and the same batch for TRL and for us; call `theirs`, then `ours`."""

    def __init__(self, dtype, make, tokenizer, folder):
        self.dtype, self.make, self.tokenizer, self.folder = dtype, make, tokenizer, folder
        self.tolerance = TOLERANCES[dtype]
        self.exact = float32_means_float64 if dtype == torch.float64 else contextlib.nullcontext

    def model(self, seed):
        return self.make(seed).to(self.dtype)

    def model_with_our_head(self, seed):
        model = self.model(seed)
        add_logps_head(model)
        return model

    def theirs(self, kind, pairs, seeds=(0, 1), **config):
        """The step of a trainer of TRL's, and its batch; `seeds` are the policy's and the reference's."""
        self.seeds, self.inputs = seeds, PairCollator(self.tokenizer.pad_token_id)(pairs)
        reference = self.model(seeds[1]) if kind in (DPOTrainer, KTOTrainer) else None
        trainer = trainer_of(kind, self.model(seeds[0]), reference, self.tokenizer, pairs, self.folder, **config)
        batch = batch_of(trainer)
        for name, expected in our_form(trainer, batch).items():
            assert torch.equal(self.inputs[name], expected), name
        with self.exact():
            return step_of(trainer, batch), batch

    def ours(self, entry, mean_mismatched=(None, None)):
        """The step of our method on that batch, and what it was made of."""
        method = method_of("x", entry)
        policy = self.model_with_our_head(self.seeds[0])
        reference = self.model_with_our_head(self.seeds[1]) if method.needs_reference else None
        with self.exact():
            chosen, rejected = (
                replace(side, mean_mismatched=mean)
                for side, mean in zip(sides(policy, reference, self.inputs), mean_mismatched, strict=True)
            )
            found = method.loss(chosen, rejected)
            loss = found.losses.mean()
            loss.backward()
        metrics = {
            "rewards/chosen": found.chosen_rewards,
            "rewards/rejected": found.rejected_rewards,
            "rewards/margins": found.chosen_rewards - found.rejected_rewards,
            "rewards/accuracies": (found.chosen_rewards > found.rejected_rewards).double(),
            **found.metrics,
        }
        means = {name: values.mean().item() for name, values in metrics.items()}
        return Step(loss.item(), gradients(policy), means), chosen, rejected

    def same(self, got, expected):
        assert got == pytest.approx(expected, rel=self.tolerance, abs=self.tolerance)

    def same_gradients(self, got, expected, scale=1.0):
        """Up to a share of each parameter's largest entry."""
        assert got.keys() == expected.keys()
        for name, gradient in expected.items():
            largest = scale * gradient.abs().max().item()
            assert largest > 0, name
            torch.testing.assert_close(got[name], scale * gradient, rtol=0, atol=self.tolerance * largest)


@pytest.fixture(params=TOLERANCES, ids=str)
def both(request, tiny_gemma, sft_folder, tmp_path):
    # A training that ended with a short batch leaves its size in this process, and TRL's metrics are cut to it.
    GradientState._reset_state()
    return Both(request.param, tiny_gemma, AutoTokenizer.from_pretrained(sft_folder()), tmp_path)


def sides(policy, reference, inputs):
    """Chosen and rejected as the trainer hands them to a method that needs nothing of other pairs but mean lengths."""
    states = None
    if reference is not None:
        with torch.no_grad():
            states = Reference(reference(**inputs), head_of(reference))
    tokens = policy(**inputs, scoring=Scoring(token_chunk=7, reference=states, sum_sq_probs=True))
    counts = inputs["completion_mask"].sum(-1)

    def side(rows):
        return Logps(
            policy=tokens.policy[rows].sum(-1),
            tokens=counts[rows],
            reference=None if reference is None else tokens.reference[rows].sum(-1),
            mean_tokens=counts[rows].double().mean().item(),
            log_sum_sq_probs=tokens.log_sum_sq_probs[rows].sum(-1),
        )

    half = len(counts) // 2
    return side(slice(half)), side(slice(half, None))


REWARDS = ["rewards/chosen", "rewards/rejected", "rewards/margins"]
DPO = {"method": "dpo", "beta": 0.1}
ROBUST = {**DPO, "label_smoothing": 0.1, "smoothing": "robust"}
TR_DPO = {"method": "tr_dpo", "beta": 0.1, "update": "hard", "sync_steps": 3}
CPO = {"method": "cpo", "beta": 0.05, "lam": 0.7, "sft_reduction": "token_mean"}
SIMPO = {"method": "simpo", "beta": 2.5, "gamma": 1.375}
DPO_NORM = {"method": "dpo_norm", "beta": 5.0}
APO_ZERO = {"method": "apo", "beta": 0.1, "variant": "zero"}
APO_DOWN = {**APO_ZERO, "variant": "down"}
FORWARD_KL = {**DPO, "divergence": "forward_kl"}
WPO = {"method": "wpo", "beta": 0.1, "weights": "aligned"}


@pytest.mark.parametrize(
    ("entry", "kind", "config"),
    [
        (DPO, DPOTrainer, {"loss_type": "sigmoid", "beta": 0.1}),
        (ROBUST, DPOTrainer, {"loss_type": "robust", "beta": 0.1, "label_smoothing": 0.1}),
        (TR_DPO, DPOTrainer, {"loss_type": "sigmoid", "beta": 0.1, "sync_ref_model": True}),
        (CPO, CPOTrainer, {"loss_type": "sigmoid", "beta": 0.05, "cpo_alpha": 0.7}),
        (SIMPO, CPOTrainer, {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 1.375, "cpo_alpha": 0.0}),
        (APO_ZERO, DPOTrainer, {"loss_type": "apo_zero", "beta": 0.1}),
        (APO_DOWN, DPOTrainer, {"loss_type": "apo_down", "beta": 0.1}),
        (WPO, DPOTrainer, {"loss_type": "sigmoid", "beta": 0.1, "use_weighting": True}),
    ],
    ids=["dpo", "robust", "tr_dpo", "cpo", "simpo", "apo_zero", "apo_down", "wpo"],
)
def test_loss_gradients_and_rewards_are_those_of_trl(both, token_pairs, entry, kind, config):
    theirs, _ = both.theirs(kind, token_pairs(5), **config)
    ours, _, _ = both.ours(entry)
    both.same(ours.loss, theirs.loss)
    both.same_gradients(ours.gradients, theirs.gradients)
    assert 0 < theirs.metrics["rewards/accuracies"] < 1
    for name in [*REWARDS, "rewards/accuracies", *(["nll_loss"] if entry is CPO else [])]:
        both.same(ours.metrics[name], theirs.metrics[name])


def test_conservative_smoothing_is_trls_aot_on_one_pair(both, token_pairs):
    """TRL 1.16 has no conservative DPO, but "aot" is that on sorted margins, and one pair is sorted."""
    theirs, _ = both.theirs(DPOTrainer, token_pairs(1), loss_type="aot", beta=0.1, label_smoothing=0.2)
    ours, _, _ = both.ours({**DPO, "label_smoothing": 0.2, "smoothing": "conservative"})
    both.same(ours.loss, theirs.loss)
    both.same_gradients(ours.gradients, theirs.gradients)


def test_the_forward_kls_loss_is_trls_but_its_rewards_are_of_the_scores(both, token_pairs):
    """TRL logs beta times the log-ratios although its loss compares 1 - exp(-r)."""
    theirs, _ = both.theirs(DPOTrainer, token_pairs(5), f_divergence_type="forward_kl", beta=0.1)
    ours, chosen, rejected = both.ours(FORWARD_KL)
    both.same(ours.loss, theirs.loss)
    both.same_gradients(ours.gradients, theirs.gradients)
    both.same(ours.metrics["rewards/accuracies"], theirs.metrics["rewards/accuracies"])
    for name, side in (("rewards/chosen", chosen), ("rewards/rejected", rejected)):
        both.same((0.1 * side.logratios).mean().item(), theirs.metrics[name])
        both.same((0.1 * (1.0 - (-side.logratios).exp())).mean().item(), ours.metrics[name])


@pytest.mark.parametrize(
    ("entry", "loss_type", "scale"),
    [({"method": "ipo", "tau": 0.1, "reduction": "mean"}, "ipo", 0.1), (DPO_NORM, "sigmoid_norm", 5.0)],
    ids=["ipo", "dpo_norm"],
)
def test_losses_of_means_are_trls_but_their_rewards_are_of_the_means(both, token_pairs, entry, loss_type, scale):
    """TRL logs `scale` times the summed log-ratios although its loss compares means per token."""
    theirs, _ = both.theirs(DPOTrainer, token_pairs(5), loss_type=loss_type, beta=scale)
    ours, chosen, rejected = both.ours(entry)
    both.same(ours.loss, theirs.loss)
    both.same_gradients(ours.gradients, theirs.gradients)
    for name, side in (("rewards/chosen", chosen), ("rewards/rejected", rejected)):
        both.same((scale * side.logratios).mean().item(), theirs.metrics[name])
        both.same((scale * side.logratios / side.tokens).mean().item(), ours.metrics[name])


@pytest.mark.parametrize("delta", [1.0, 2.5])
def test_slic_hf_is_delta_times_cpos_hinge(both, token_pairs, delta):
    """relu(delta - z) is delta relu(1 - z / delta), so lam is delta times TRL's weight of the NLL."""
    config = {"loss_type": "hinge", "beta": 1 / delta, "cpo_alpha": 0.3 / delta}
    theirs, _ = both.theirs(CPOTrainer, token_pairs(5), **config)
    ours, chosen, rejected = both.ours({"method": "slic_hf", "delta": delta, "lam": 0.3, "sft_reduction": "token_mean"})
    misses = chosen.policy - rejected.policy < delta
    assert misses.any() and not misses.all()
    both.same(ours.loss, delta * theirs.loss)
    both.same_gradients(ours.gradients, theirs.gradients, delta)
    for name in REWARDS:
        both.same(ours.metrics[name], delta * theirs.metrics[name])
    for name in ("rewards/accuracies", "nll_loss"):
        both.same(ours.metrics[name], theirs.metrics[name])


def test_orpo_is_trls_but_for_the_prompt_in_its_nll(both, token_pairs):
    """TRL's NLL runs over prompt and answer, the paper's and ours over the answer: with that made up, all agrees."""
    theirs, _ = both.theirs(ORPOTrainer, token_pairs(5), beta=0.5)
    ours, chosen, _ = both.ours({"method": "orpo", "lam": 0.5, "sft_reduction": "token_mean"})
    both.same(ours.loss - ours.metrics["nll_loss"], theirs.loss - theirs.metrics["nll_loss"])
    for name in [*REWARDS, "rewards/accuracies", "log_odds_chosen", "log_odds_ratio"]:
        both.same(ours.metrics[name], theirs.metrics[name])

    whole = both.inputs["attention_mask"].clone()
    whole[:, 0] = 0  # nothing predicts the first token
    policy = both.model_with_our_head(0)
    with both.exact():
        text, _ = sides(policy, None, {**both.inputs, "completion_mask": whole})
        answer, _ = sides(policy, None, both.inputs)
        difference = (nll(text, "token_mean") - nll(answer, "token_mean")).mean()
        difference.backward()
    assert (text.tokens > chosen.tokens).all() and abs(difference.item()) > 0.01
    both.same(ours.metrics["nll_loss"] + difference.item(), theirs.metrics["nll_loss"])
    both.same(ours.loss + difference.item(), theirs.loss)
    of_difference = gradients(policy)
    made_up = {name: gradient + of_difference[name] for name, gradient in ours.gradients.items()}
    both.same_gradients(made_up, theirs.gradients)


@pytest.mark.parametrize("seeds", [(0, 1), (1, 0)], ids=["z0 above 0", "z0 floored"])
def test_kto_is_trls_with_trls_mismatched_answers(both, token_pairs, seeds):
    """TRL gives each example the answer of the example before it, whatever its class; our loss gets their means."""
    config = {"beta": 0.1, "desirable_weight": 1.3, "undesirable_weight": 0.8}
    theirs, batch = both.theirs(KTOTrainer, token_pairs(5), seeds, loss_type="kto", **config)
    assert batch["label"].tolist() == [True] * 5 + [False] * 5
    mismatched = {name: batch[f"KL_{name}"] for name in both.inputs}
    assert answers(mismatched) == [answers(both.inputs)[-1], *answers(both.inputs)[:-1]]

    with both.exact(), torch.no_grad():
        scored = sides(*(both.model_with_our_head(seed) for seed in seeds), mismatched)
    means = [side.logratios.mean().item() for side in scored]
    z0 = sum(means) / 2
    assert abs(z0) > 0.5 and (z0 > 0) == (seeds == (0, 1))
    both.same(max(z0, 0.0), theirs.metrics["kl"])
    ours, _, _ = both.ours({"method": "kto", **config}, means)
    both.same(ours.loss, theirs.loss)
    both.same_gradients(ours.gradients, theirs.gradients)
    for name in [*REWARDS, "kl"]:
        both.same(ours.metrics[name], theirs.metrics[name])


def answers(inputs):
    rows = zip(inputs["input_ids"], inputs["completion_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in rows]


def flat(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class MoveAlongside(TrainerCallback):
    """Once TRL has moved its reference or not, do the same with ours; keep both and the policy after each step."""

    def __init__(self, trainer, method, reference):
        self.trainer, self.method, self.reference, self.states = trainer, method, reference, []

    @torch.no_grad()
    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.method.after_step(state.global_step, {}, model, self.reference)
        self.states.append((flat(self.trainer.ref_model), flat(self.reference), flat(model)))


@pytest.mark.parametrize(
    ("entry", "alpha"), [({"update": "soft", "alpha": 0.6}, 0.6), ({"update": "hard"}, 1.0)], ids=["soft", "hard"]
)
def test_tr_dpos_reference_moves_as_in_a_training_run_of_trl(both, token_pairs, entry, alpha):
    """Five steps of DPOTrainer with a sync every second one: the first comes at step 2."""
    config = {"sync_ref_model": True, "ref_model_mixup_alpha": alpha, "ref_model_sync_steps": 2, "max_steps": 5}
    quiet = {"save_strategy": "no", "logging_strategy": "no", "learning_rate": 1e-2, "per_device_train_batch_size": 2}
    policy, reference, pairs = both.model(0), both.model(1), token_pairs(6)
    trainer = trainer_of(DPOTrainer, policy, reference, both.tokenizer, pairs, both.folder, **config, **quiet)
    method = method_of("x", {"method": "tr_dpo", "beta": 0.1, "sync_steps": 2, **entry})
    alongside = MoveAlongside(trainer, method, both.model(1))
    trainer.add_callback(alongside)  # runs after TRL's own, which was added first
    trainer.train()

    before, moved = flat(both.model(1)), []
    for theirs, ours, trained in alongside.states:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0 if alpha == 1.0 else both.tolerance)
        moved.append(not torch.equal(theirs, before))
        assert torch.equal(theirs, trained) == (moved[-1] and alpha == 1.0)
        before = theirs
    assert moved == [False, True, False, True, False] and method.syncs == 2
