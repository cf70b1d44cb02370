"""One trainer for every pairwise method: a transformers.Trainer whose loss comes from a `Method`.

What it adds to method_trainer.py, which it shares with the trainer of online methods: which pairs share a micro-batch,
and the exact mean of the loss over the optimizer step. No method is named.

The loss is the mean over all pairs of an optimizer step, however they are split into micro-batches and ranks, and also
where the last step of an epoch holds fewer. So each rank cuts its pairs of a step into as many micro-batches as they
came in, but where least is padded (micro_batches.py). Which pairs form a step remains the Trainer's seeded order.

(Drawn alternatives alone depend on the split: each micro-batch draws its own. And where the pairs of an epoch cannot be
shared out evenly over ranks, accelerate fills the last batch with pairs from its beginning, which then count twice.)
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from epsilon_dpo.methods.interface import Method
from epsilon_dpo.training.alignment.method_trainer import MethodTrainer
from epsilon_dpo.training.alignment.micro_batches import cut_by_length
from epsilon_dpo.training.alignment.pair_data import PairData
from epsilon_dpo.training.alignment.pair_metrics import Totals, pair_metrics
from epsilon_dpo.training.alignment.reference_model import followed_weights


class PreferenceTrainer(MethodTrainer):
    """Trains `model` on preference pairs; arguments as of MethodTrainer."""

    method: Method[Any]

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
        super().__init__(
            model,
            reference,
            method,
            method,
            token_chunk,
            args,
            train_dataset,
            eval_dataset,
            pad_token_id,
            callbacks,
            share_prompt,
        )
        self._known: dict[str, float] = {}
        self._micro_batch = 0  # of the present step
        self._cut: list[list[int]] = [[]]  # the step's micro-batches as places in the Trainer's order
        self._sizes: list[int] = []  # of the micro-batches in that order
        self._weights: list[Tensor] = []  # of the micro-batches to come, if the method looks ahead

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
