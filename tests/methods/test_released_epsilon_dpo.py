"""ε-DPO step by step against the rules of the released code (oddqueue/e-dpo, a subclass of TRL 0.13's DPOTrainer).

`Released` is a plain training loop written from those rules: whole logits, no attention mask, mixtures multiplied out,
beta moved by a step's last micro-batch before its backward pass. It is fed the pairs in the order in which our trainer
saw them. Both must take the same decisions, have the same betas and losses, and end at the same weights.

In float32 the loop is the released arithmetic, whose beta is a float32 tensor from its first update on. In float64
everything is widened (the released code would keep decisions and beta in float32 there): only the rules are left.

The loop was itself compared, outside this suite, with the released loss code under its own pins (TRL 0.13.0,
transformers 4.48.0, accelerate 1.2.1; float32, CPU) on these runs of 16 steps: every decision was the same, every beta
the same to the last bit, the weights to 2e-6.
"""

import contextlib
import math
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup
from trl_trainers import float32_means_float64

from epsilon_dpo.methods.epsilon_dpo import EpsilonDPO
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.stage.files import read_jsonl, write_jsonl
from epsilon_dpo.training.alignment.alignment import align
from epsilon_dpo.training.alignment.params import Align
from epsilon_dpo.training.alignment.trainer import PreferenceTrainer
from epsilon_dpo.training.loop import micro_batches

pytestmark = pytest.mark.numeric

BETA, EPSILON = 0.1, 0.4  # at smaller ε hardly a margin is not monotonic
LEARNING_RATE, WARMUP, ADAM_BETA2, MAX_GRAD_NORM = 2e-2, 2, 0.999, 1.75  # some steps are clipped, some are not
BATCH, STEPS = 4, 16
PAIRS = 144  # whole windows in each epoch for an accumulation of 1 and 3; then 16 steps are more than one epoch


def as_they_came(lengths, count, most):
    return [list(range(len(lengths)))[start : start + most] for start in range(0, len(lengths), most)]


Window = list[list[dict[str, Any]]]  # the micro-batches of an optimizer step


@dataclass
class Step:
    """An optimizer step as either side took it."""

    decisions: list[list[int]]  # per micro-batch
    mean_step: float
    beta: float  # in its losses
    beta_next: float
    loss: float
    grad_norm: float  # before clipping
    learning_rate: float


class Released:
    """The released training loop on one process, from the model in `folder`.

    Its gradient is that of transformers 4.48.0, which it pins. With 4.48.1 to 4.48.3, TRL 0.13 adds the micro-batches'
    gradients up and does not divide (huggingface/transformers#35856), which Adam undoes but clipping does not.

    Args:
        steps: after which the learning rate is zero.
        exact_ties: equal logits of policy and reference are a tie, as with us and not in the released code.
    """

    def __init__(self, folder, accumulation, steps=STEPS, exact_ties=True):
        self.policy, self.reference = (AutoModelForCausalLM.from_pretrained(folder, dtype="auto") for _ in range(2))
        self.accumulation, self.exact_ties = accumulation, exact_ties
        self.beta, self.mean_step = BETA, 0.0
        self.closest = math.inf  # distance of a margin to a perturbed one, so far
        config = {"lr": LEARNING_RATE, "betas": (0.9, ADAM_BETA2), "eps": 1e-8, "weight_decay": 0.0}
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), **config)
        self.schedule = get_cosine_schedule_with_warmup(self.optimizer, WARMUP, steps)

    def step(self, window: Window) -> Step:
        used, losses, decisions = float(self.beta), [], []
        for number, pairs in enumerate(window, start=1):
            h, s = self.margins(pairs)
            loss = -logsigmoid(self.beta / (1 + EPSILON * s) * h).mean()
            self.mean_step += s.mean() / self.accumulation
            if number == len(window):
                mean_step, self.mean_step = self.mean_step, 0.0
                self.beta = self.beta / (1 + mean_step * EPSILON)
            (loss / self.accumulation).backward()
            losses.append(loss.item())
            decisions.append(s.int().tolist())
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), MAX_GRAD_NORM).item()
        (learning_rate,) = self.schedule.get_last_lr()
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        loss = sum(losses) / len(losses)
        return Step(decisions, mean_step.item(), used, self.beta.item(), loss, norm, learning_rate)

    def margins(self, pairs: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        """The log-ratio margin h, with gradient, and the decision in {-1, 0, 1} of each pair, [B] both."""
        rows = [(pair["prompt_ids"], pair[side]) for side in ("chosen_ids", "rejected_ids") for pair in pairs]
        ids = torch.zeros(len(rows), max(len(prompt) + len(answer) for prompt, answer in rows), dtype=torch.long)
        answers = torch.zeros_like(ids, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(rows):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor(prompt + answer)
            answers[row, len(prompt) : end] = True

        def margin(logits):
            tokens = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
            chosen, rejected = tokens.masked_fill(~answers[:, 1:], 0.0).sum(-1).chunk(2)
            return chosen - rejected

        f = self.policy(ids).logits
        with torch.no_grad():
            g = self.reference(ids).logits
            z = margin(f)
            lower = margin((1 + EPSILON) * f - EPSILON * g)
            higher = margin((1 - EPSILON) * f + EPSILON * g)
        h = margin(f) - margin(g)
        if self.exact_ties and torch.equal(f, g):
            return h, torch.zeros_like(z)
        self.closest = min(self.closest, (lower - z).abs().min().item(), (higher - z).abs().min().item())
        s = ((lower > z) & (z > higher)).to(z.dtype) - ((higher > z) & (z > lower)).to(z.dtype)
        return h, s


@dataclass
class Ours:
    """A run of our trainer: its steps, the pairs it saw in each and its final weights."""

    steps: list[Step]
    windows: list[Window]
    weights: dict[str, Tensor]


@contextlib.contextmanager
def recorded_training():
    """Yields what training does meanwhile, by optimizer step: ids of each micro-batch, and decisions of its pairs."""
    ids: dict[int, list[Tensor]] = {}
    decisions: dict[int, list[list[int]]] = {}
    compute_loss, loss = PreferenceTrainer.compute_loss, EpsilonDPO.loss

    def recorded_compute_loss(trainer, model, inputs, *args, **kwargs):
        ids.setdefault(trainer.state.global_step, []).append(inputs["input_ids"])
        return compute_loss(trainer, model, inputs, *args, **kwargs)

    def recorded_loss(method, chosen, rejected):
        found = loss(method, chosen, rejected)
        if found.losses.requires_grad:  # not in evaluation
            decisions.setdefault(max(ids), []).append(found.metrics["eps/mean_step"].int().tolist())
        return found

    with (
        patch.object(PreferenceTrainer, "compute_loss", recorded_compute_loss),
        patch.object(EpsilonDPO, "loss", recorded_loss),
        # The released loop knows micro-batches of one size only.
        patch.object(micro_batches, "cut_by_length", as_they_came),
    ):
        yield ids, decisions


@pytest.fixture
def ours(sft_folder, token_pairs, tmp_path):
    """Train by stage align's call from the model in `tmp_path`/sft, which it makes."""

    def run(dtype, accumulation, count=PAIRS, steps=STEPS):
        folder, rows, out = sft_folder(dtype), tmp_path / "pairs", tmp_path / "out"
        rows.mkdir()
        out.mkdir()
        pairs = token_pairs(count)
        write_jsonl(rows / "train.jsonl", pairs)
        write_jsonl(rows / "eval.jsonl", pairs[:2])
        config = Align(
            learning_rate=LEARNING_RATE,
            num_train_epochs=1.0,
            max_steps=steps,
            batch_size=BATCH * accumulation,
            micro_batch_size=BATCH,
            lr_scheduler_type="cosine",
            warmup_ratio=min(WARMUP / steps, 0.5) if steps > 1 else 0.0,
            weight_decay=0.0,
            max_grad_norm=MAX_GRAD_NORM,
            adam_beta2=ADAM_BETA2,
            bf16=False,
            gradient_checkpointing=False,
            lora=None,
            logps_token_chunk=7,
            share_prompt=False,
        )
        method = method_of("e", {"method": "epsilon_dpo", "beta": BETA, "epsilon": EPSILON})
        with recorded_training() as (ids, decisions):
            align(
                method, config, 5, folder, rows, out, tmp_path / "scratch", lambda metrics, step: None, save_steps=1000
            )
        names = ("eps/mean_step", "eps/beta", "eps/beta_next", "loss", "grad_norm", "learning_rate")
        stream = read_jsonl(out / "metrics.jsonl")
        assert len(stream) == steps
        taken = [
            Step(made, *(row[name] for name in names)) for made, row in zip(decisions.values(), stream, strict=True)
        ]
        known = {(*pair["prompt_ids"], *pair["chosen_ids"]): pair for pair in pairs}
        windows = [
            [[known[tuple(row[row != 0].tolist())] for row in batch[: len(batch) // 2]] for batch in window]
            for window in ids.values()
        ]
        return Ours(taken, windows, load_file(out / "model" / "model.safetensors"))

    return run


def widened(dtype):
    """Gemma-2's norms and softmax ask for float32 by name."""
    return float32_means_float64() if dtype == torch.float64 else contextlib.nullcontext()


def flat(decisions):
    return [s for micro_batch in decisions for s in micro_batch]


def assert_same(step: Step, released: Step, dtype: torch.dtype) -> None:
    beta, loss, norm = (1e-6, 2e-5, 5e-5) if dtype == torch.float32 else (1e-12, 1e-12, 1e-12)
    assert step.decisions == released.decisions
    assert step.mean_step == pytest.approx(released.mean_step, rel=0, abs=beta)
    assert [step.beta, step.beta_next] == pytest.approx([released.beta, released.beta_next], rel=beta)
    assert step.loss == pytest.approx(released.loss, rel=loss)
    assert step.grad_norm == pytest.approx(released.grad_norm, rel=norm)
    assert step.learning_rate == pytest.approx(released.learning_rate, rel=1e-12)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_step_is_the_released_one(ours, tmp_path, dtype, accumulation):
    with widened(dtype):
        run = ours(dtype, accumulation)
        released = Released(tmp_path / "sft", accumulation)
        steps = [released.step(window) for window in run.windows]
    for step, expected in zip(run.steps, steps, strict=True):
        assert_same(step, expected, dtype)
    weights = released.policy.state_dict()
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12  # the learning rates add up to 0.16
    for name, weight in run.weights.items():
        assert (weight - released.reference.state_dict()[name]).abs().max() > 2e-2
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=tolerance)

    # What makes this a comparison: whole windows of every pair, all three decisions and none close to a tie, clipping.
    assert all([len(pairs) for pairs in window] == [BATCH] * accumulation for window in run.windows)
    seen = [pair["id"] for window in run.windows for pair in flat(window)]
    assert len(set(seen[:PAIRS])) == min(PAIRS, len(seen))
    assert not any(s for step in steps[:2] for s in flat(step.decisions))  # the first learning rate is zero
    decisions = [s for step in steps[2:] for s in flat(step.decisions)]
    assert min(decisions.count(1), decisions.count(-1)) >= len(decisions) / 4 and decisions.count(0) >= 3
    assert released.closest > 1e-4
    assert min(step.grad_norm for step in steps) < MAX_GRAD_NORM < max(step.grad_norm for step in steps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equal_models_tie_here_and_decide_there(ours, tmp_path, dtype):
    """At the first step the policy is the reference, and (1 + ε) f - ε f is not f in floating point."""
    with widened(dtype):
        run = ours(dtype, 120, count=480, steps=1)
        step = Released(tmp_path / "sft", 120, exact_ties=False).step(run.windows[0])
    assert flat(run.steps[0].decisions) == [0] * 480
    assert run.steps[0].beta_next == BETA
    assert sum(s != 0 for s in flat(step.decisions)) >= 3
    assert run.steps[0].loss == pytest.approx(step.loss, rel=1e-6)  # log 2 whatever the decision


@pytest.mark.parametrize(
    ("count", "decisions", "mean_of_pairs", "released_mean"),
    [
        (28, [[0, 1, 0, 1]], 0.5, 0.25),  # one micro-batch where two are allowed: divided by two all the same
        (29, [[-1, -1, 1, 0], [-1]], -0.4, -0.625),  # the pair that is alone counts for four
    ],
)
def test_an_uneven_last_window_is_the_mean_of_its_pairs_here(
    ours, tmp_path, count, decisions, mean_of_pairs, released_mean
):
    """The fourth and last step of an epoch, where the released gradient, too, weighs pairs unequally.

    transformers 4.48.0 does not count a short window among the steps to be made, so that a training of one epoch ends
    before it, and one of several epochs takes it and ends that many steps early.
    """
    with widened(torch.float64):
        run = ours(torch.float64, 2, count=count, steps=4)
        released = Released(tmp_path / "sft", 2, steps=4)
        steps = [released.step(window) for window in run.windows]
    for step, expected in zip(run.steps[:-1], steps[:-1], strict=True):
        assert_same(step, expected, torch.float64)
    step, expected = run.steps[-1], steps[-1]
    assert step.decisions == expected.decisions == decisions
    assert [step.mean_step, expected.mean_step] == pytest.approx([mean_of_pairs, released_mean])
    betas = [step.beta / (1 + EPSILON * mean) for mean in (mean_of_pairs, released_mean)]
    assert [step.beta_next, expected.beta_next] == pytest.approx(betas)
    one_micro_batch = len(decisions) == 1  # then only the divisor differs
    assert (step.loss == pytest.approx(expected.loss, rel=1e-10)) == one_micro_batch
    assert (step.grad_norm == pytest.approx(2 * expected.grad_norm, rel=1e-10)) == one_micro_batch
