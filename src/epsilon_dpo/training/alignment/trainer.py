"""One trainer for every pairwise method: a transformers.Trainer whose loss comes from a `Method`.

What it adds to method_trainer.py, which it shares with the trainer of online methods: the exact mean of the loss over
the optimizer step, and what a method wants to know of all of the step before its first loss. No method is named.

The loss is the mean over all pairs of an optimizer step, however they are split into micro-batches and processes, and
also where the last step of an epoch holds fewer (loop/whole_steps.py). Drawn alternatives alone depend on the split:
each micro-batch draws its own.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from epsilon_dpo.methods.interface import Method
from epsilon_dpo.training.alignment.method_trainer import MethodTrainer
from epsilon_dpo.training.alignment.pair_data import ANSWERS
from epsilon_dpo.training.alignment.pair_metrics import Totals, pair_metrics
from epsilon_dpo.training.alignment.reference_model import followed_weights
from epsilon_dpo.training.loop.sharding import let_go
from epsilon_dpo.training.loop.whole_steps import Step, WholeSteps


class PreferenceTrainer(WholeSteps, MethodTrainer):
    """Trains `model` on preference pairs; arguments as of MethodTrainer."""

    method: Method[Any]
    # Of the present step, from get_batch_samples on.
    _step_now: Step
    _known: dict[str, float]
    _micro_batch: int
    _weights: list[Tensor]  # of the micro-batches to come, if the method looks ahead

    def row_length(self, row: dict[str, Any]) -> int:
        """Also of the mismatched answers, which are scored in a pass of their own."""
        which = ("", "mismatched_") if "mismatched_chosen_ids" in row else ("",)
        return max(self.collate.length(row, one) for one in which)

    def micro_batch(self, rows: list[Any], counts: bool) -> dict[str, Any]:
        return self.collate(rows)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], int]:
        """The next optimizer step; what a loss needs of all of it is computed here."""
        steps, pairs = super().get_batch_samples(epoch_iterator, num_batches, device)
        step: Step = steps[0]
        policy = self.accelerator.unwrap_model(self.model)
        known = Totals()
        for places, batch in zip(step.own, step.batches, strict=True):
            known.add(_of_first(self.scorer.known_before(policy, batch), len(places)))
        self._known = known.take_over_ranks(self.accelerator).means()
        self._step_now, self._micro_batch, self._weights = step, 0, []
        # With one micro-batch what is looked at comes with its loss.
        if self.method.looks_ahead and len(step.batches) > 1:
            self._plan_step([self.scorer.looked_at(policy, batch) for batch in step.batches])
        return steps, pairs

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """A micro-batch's part of the step's mean loss (see PairCollator for `inputs`).

        Its metrics are added to those of the step. `num_items_in_batch` is how many pairs that has.
        """
        generator = self._random(self.state.global_step, self._micro_batch, self.accelerator.process_index)
        chosen, rejected = self.scorer.score(model, inputs, self._known, generator)
        if self.method.looks_ahead and not self._weights:
            self._plan_step([self.method.looked_at(chosen, rejected).detach().double()])
        loss = self.method.loss(chosen, rejected)
        self._micro_batch += 1
        if self.method.looks_ahead:
            weights = self._weights.pop(0).to(loss.losses)
            loss = replace(loss, losses=loss.losses * (weights if self.rows_now else 0.0))
        self._step.add(_of_first(pair_metrics(chosen, rejected, loss), self.rows_now))
        assert num_items_in_batch is not None
        whole = self.accelerator.num_processes if self.rows_now else 0.0  # gradients are averaged later
        return loss.losses.sum() * (whole / num_items_in_batch)

    @torch.no_grad()
    def _plan_step(self, values: list[Tensor]) -> None:
        """Let the method look at `values` of the step's pairs, [B] per micro-batch, and keep this process's weights.

        It sees them in the order drawn, those of all processes.
        """
        step = self._step_now
        of_all = torch.zeros(len(step.rows), dtype=torch.float64, device=values[0].device)
        for places, own in zip(step.own, values, strict=True):
            of_all[places] = own[: len(places)]
        of_all = self.accelerator.reduce(of_all, "sum").cpu()
        weights = self.method.before_step(of_all, self._random(self.state.global_step))
        self._weights = [weights[places] for places in step.own]

    def _track_num_input_tokens(self, inputs: Step) -> None:
        """Tokens of all processes' rows; a shared prompt is run once."""
        prompts = 1 if self.collate.share_prompt else 2
        self.state.num_input_tokens_seen += sum(
            prompts * len(row["prompt_ids"]) + sum(len(row[side]) for side in ANSWERS) for row in inputs.rows
        )

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
        if reference is not None and self.method.moves_reference:
            let_go(reference)
        policy = followed_weights(self.accelerator.unwrap_model(self.model))
        self._state_metrics = self.method.after_step(self.state.global_step, means, policy, reference)


def _of_first(metrics: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """`metrics` [B] of the first pairs: of none where a process has no pair and takes part with another's."""
    return {name: values[:count] for name, values in metrics.items()}
