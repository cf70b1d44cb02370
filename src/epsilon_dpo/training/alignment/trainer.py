"""One trainer for every pairwise method: a transformers.Trainer whose loss comes from a `Method`.

What it adds to the Trainer: log-probs through the chunked head (no logits), a frozen or moving reference (or the policy
without its adapter), exact means over the optimizer step for the loss, the method's state and the logs, and checkpoints
that hold that state. No method is named.

The loss is the mean over all pairs of an optimizer step, however they are split into micro-batches and ranks, and also
where the last step of an epoch holds fewer. So each rank cuts its pairs of a step into as many micro-batches as they
came in, but where least is padded (micro_batches.py). Which pairs form a step remains the Trainer's seeded order.

(Drawn alternatives alone depend on the split: each micro-batch draws its own. And where the pairs of an epoch cannot be
shared out evenly over ranks, accelerate fills the last batch with pairs from its beginning, which then count twice.)
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from epsilon_dpo.methods.interface import Method
from epsilon_dpo.models.logps.head import add_logps_head
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, write_json
from epsilon_dpo.training.alignment.micro_batches import cut_by_length
from epsilon_dpo.training.alignment.pair_data import PairCollator, PairData
from epsilon_dpo.training.alignment.pair_logps import PairLogps
from epsilon_dpo.training.alignment.pair_metrics import Totals, pair_metrics
from epsilon_dpo.training.alignment.recomputed_attention import recompute_attention
from epsilon_dpo.training.alignment.reference_model import disable_dropout, followed_weights, references
from epsilon_dpo.training.loop.adapters import ResumesAdapter

METHOD_STATE = "method_state.json"
REFERENCE_WEIGHTS = "reference.safetensors"
NO_STEP = 2**32 - 1  # in the place of a step's number: evaluation shares no random numbers with training


class PreferenceTrainer(ResumesAdapter):
    """Trains `model` on preference pairs.

    Args:
        model: the policy, at its starting weights.
        reference: the frozen copy it is compared with, or `model` itself if that has an adapter (adapters.py); None
            exactly if the method needs none.
        method: loss and state.
        token_chunk: completion tokens whose logits exist at once.
        pad_token_id: fills rows on the right.
        callbacks: observers, e.g. loop.checkpoints.SealedCheckpoints and loop.metrics_jsonl.MetricStream.
        share_prompt: a pair is one row, see shared_prompt.py.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel | None,
        method: Method[Any],
        token_chunk: int,
        args: TrainingArguments,
        train_dataset: PairData,
        eval_dataset: PairData,
        pad_token_id: int,
        callbacks: list[TrainerCallback],
        share_prompt: bool = False,
    ) -> None:
        if method.needs_reference != (reference is not None):
            raise ValueError(f"{type(method).__name__} and the reference do not fit")
        disable_dropout(model)
        add_logps_head(model)
        if not args.gradient_checkpointing:  # which keeps nothing of a layer anyway
            recompute_attention(model)
        super().__init__(
            model=model,
            args=args,
            data_collator=list,  # type: ignore[arg-type]  # `collate` follows when all pairs of the step are known
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=[_AfterStep(self), *callbacks],
        )
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the pairs of the step itself
        self.method = method
        self.collate = PairCollator(pad_token_id, share_prompt)
        self.reference, initial = references(model, reference, method.moves_reference, self.accelerator)
        self.scorer = PairLogps(method, self.reference, initial, token_chunk, self.accelerator)
        self._step, self._window = Totals(), Totals()
        self._known: dict[str, float] = {}
        self._micro_batch = 0  # of the present step
        self._cut: list[list[int]] = [[]]  # the step's micro-batches as places in the Trainer's order
        self._sizes: list[int] = []  # of the micro-batches in that order
        self._weights: list[Tensor] = []  # of the micro-batches to come, if the method looks ahead
        self._state_metrics: dict[str, float] = {}

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], int]:
        """The micro-batches of an optimizer step, and how many pairs they hold on all ranks.

        All of them are at hand here, so this decides which pairs share a micro-batch, and computes what a loss needs of
        the whole step.
        """
        drawn, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        pairs = [pair for batch in drawn for pair in batch]
        self._sizes = [len(batch) for batch in drawn]
        self._cut = cut_by_length([self.collate.length(pair) for pair in pairs], len(drawn), max(self._sizes))
        batches = [self._prepare_inputs(self.collate([pairs[place] for place in places])) for places in self._cut]
        policy = self.accelerator.unwrap_model(self.model)
        known = Totals()
        for batch in batches:
            known.add(self.scorer.known_before(policy, batch))
        of_all = known.take_over_ranks(self.accelerator)
        self._known, self._micro_batch = of_all.means(), 0
        # With one micro-batch what is looked at comes with its loss.
        if self.method.looks_ahead and len(batches) > 1:
            self._plan_step([self.scorer.looked_at(policy, batch) for batch in batches])
        return batches, of_all.pairs

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """A micro-batch's part of the step's mean loss (see PairCollator for `inputs`).

        Its metrics are added to those of the step. `num_items_in_batch` is what get_batch_samples counted.
        """
        generator = self._random(self.state.global_step, self._micro_batch, self.accelerator.process_index)
        chosen, rejected = self.scorer.score(model, inputs, self._known, generator)
        if self.method.looks_ahead and not self._weights:
            self._plan_step([self.method.looked_at(chosen, rejected).detach().double()])
        loss = self.method.loss(chosen, rejected)
        if self.method.looks_ahead:
            loss = replace(loss, losses=loss.losses * self._weights.pop(0).to(loss.losses))
        self._step.add(pair_metrics(chosen, rejected, loss))
        self._micro_batch += 1
        assert num_items_in_batch is not None
        return loss.losses.sum() * (self.accelerator.num_processes / num_items_in_batch)  # gradients are averaged later

    @torch.no_grad()
    def _plan_step(self, values: list[Tensor]) -> None:
        """Let the method look at `values` of the step's pairs, [B] per micro-batch, and keep this rank's weights.

        It sees them in the Trainer's order, micro-batch by micro-batch over all ranks, however they were cut.
        """
        places = torch.tensor([place for part in self._cut for place in part])
        in_order = torch.cat(values)[places.argsort()]
        gathered = [self.accelerator.gather(part) for part in in_order.split(self._sizes)]
        weights = self.method.before_step(torch.cat(gathered).cpu(), self._random(self.state.global_step))
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        own = [part.chunk(ranks)[rank] for part in weights.split([len(part) for part in gathered])]
        self._weights = list(torch.cat(own)[places].split([len(part) for part in self._cut]))

    def _random(self, *key: int) -> torch.Generator:
        """Random numbers that depend on the seed and `key` only: nothing of them has to be saved."""
        seed = np.random.SeedSequence([self.args.seed, *key]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed))

    @torch.no_grad()
    def finish_step(self) -> None:
        """After an optimizer step: the means of all ranks move the method's state and enter the logging window.

        Raises:
            UserError: the loss is not finite.
        """
        of_all = self._step.take_over_ranks(self.accelerator)
        means = of_all.means()
        self._refuse_what_is_not_finite("loss", means["loss"])
        self._window.merge(of_all)
        reference = None if self.reference is None else self.reference.weights
        policy = followed_weights(self.accelerator.unwrap_model(self.model))
        self._state_metrics = self.method.after_step(self.state.global_step, means, policy, reference)

    def _refuse_what_is_not_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise UserError(
                f"the {name} of {self.method.config.method} became {value} at step {self.state.global_step}; "
                "lower its learning_rate in params.yaml, or align.max_grad_norm."
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Put the means since the last row into a training row (their exact loss replaces the Trainer's).

        Without `start_time` the Trainer adds no speeds, which no two runs share.
        """
        if "loss" in logs:
            self._refuse_what_is_not_finite("gradient's norm", logs.get("grad_norm", 0.0))
            logs = {**logs, **self._window.means(), **self._state_metrics}
            self._window = Totals()
        super().log(logs)

    @torch.no_grad()
    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """The metrics of all evaluation pairs under the present state, which evaluation never changes."""
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        self.callback_handler.eval_dataloader = dataloader
        known, totals = Totals(), Totals()
        for inputs in self._eval_batches(dataloader):
            known.add(self._gathered(self.scorer.known_before(model, inputs)))
        of_all = known.means()
        for number, inputs in enumerate(self._eval_batches(dataloader)):
            generator = self._random(NO_STEP, number, self.accelerator.process_index)
            chosen, rejected = self.scorer.score(model, inputs, of_all, generator)
            totals.add(self._gathered(pair_metrics(chosen, rejected, self.method.loss(chosen, rejected))))
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        means = {f"{metric_key_prefix}_{name}": value for name, value in totals.means().items()}
        return EvalLoopOutput((), None, means, num_samples=len(dataloader.dataset))  # type: ignore[arg-type]

    def _eval_batches(self, dataloader: Any) -> Iterator[dict[str, Any]]:
        return (self._prepare_inputs(self.collate(pairs)) for pairs in dataloader)

    def _gathered(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """`metrics` [B] of all ranks, without the pairs that only fill up a last batch."""
        rows = self.accelerator.gather_for_metrics(torch.stack(list(metrics.values()), dim=1))
        return dict(zip(metrics, rows.T, strict=True))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            write_json(checkpoint / METHOD_STATE, self.method.state_dict())
            if self.reference is not None and self.method.moves_reference:
                save_model(self.reference.weights, str(checkpoint / REFERENCE_WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        checkpoint = Path(resume_from_checkpoint)
        self.method.load_state_dict(read_json(checkpoint / METHOD_STATE))
        if self.reference is not None and self.method.moves_reference:
            load_model(self.reference.weights, checkpoint / REFERENCE_WEIGHTS)


class _AfterStep(TrainerCallback):
    """Calls `finish_step` after each optimizer step, before the row of that step is logged or saved."""

    def __init__(self, trainer: PreferenceTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.finish_step()
