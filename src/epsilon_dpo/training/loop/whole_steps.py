"""Optimizer steps that neither the number of processes nor the size of a micro-batch changes.

Every process reads all rows of a step, in the same order. They are cut by length into micro-batches that need no more
memory than `micro_batch_size` rows of the longest, equally many for each process, and a process takes its share. So a
step is the same rows whatever computes it, also the last one of an epoch, which holds fewer: transformers shares out
batches before it accumulates them, and fills up an epoch's end with rows of its beginning, which then count twice.

What is left to rounding: sums are taken in another order.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from transformers import Trainer

from epsilon_dpo.training.loop.micro_batches import share_of
from epsilon_dpo.training.loop.sharding import allow_processors

LARGE = 1_000_000  # weights of a model whose tokens cost a processor more than the start of a micro-batch


@dataclass(frozen=True)
class Step:
    """An optimizer step as one process sees it.

    Attributes:
        rows: of all processes, in the order drawn.
        own: places in `rows` of this process's micro-batches. Every process has equally many, because their collective
            operations must meet; an empty one has no rows and takes part with one that does not count.
        batches: the micro-batches, collated, on the device.
    """

    rows: Sequence[Any]
    own: list[list[int]]
    batches: list[dict[str, Any]]


class ReadsAll(Trainer):
    """A Trainer each of whose processes reads all rows of an optimizer step: `per_device_train_batch_size` of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        allow_processors()
        super().__init__(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """All rows of each step on every process, in the order that accelerate would draw."""
        sampler: Any = self._get_train_sampler(self.train_dataset)
        if isinstance(sampler, RandomSampler):
            sampler = SeedableRandomSampler(self.train_dataset, data_seed=self.args.data_seed)
        size = self.args.per_device_train_batch_size
        dataset: Any = self.train_dataset
        return _Loader(dataset, batch_sampler=_Batches(sampler, size, drop_last=False), collate_fn=list)

    def exchange(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged once per step, but by FSDP in every micro-batch: else each process would hold all."""
        if last or self.accelerator.is_fsdp2:
            return nullcontext()
        held: AbstractContextManager[Any] = self.accelerator.no_sync(model)
        return held

    def floating_point_ops(self, inputs: Any) -> int:
        """Nobody reads this estimate of transformers', which is made for its own batches."""
        return 0


class WholeSteps(ReadsAll):
    """Cuts a step into micro-batches of at most `per_device_eval_batch_size` rows and takes this process's share."""

    rows_now = 0  # of the present micro-batch, that count

    @abstractmethod
    def row_length(self, row: Any) -> int:
        """Columns that a micro-batch of this row alone has."""

    def micro_batch(self, rows: list[Any], counts: bool) -> dict[str, Any]:
        """`rows` collated; without `counts` they belong to another process and must add nothing to the loss."""
        batch: dict[str, Any] = self.data_collator(rows)
        return batch

    def items(self, rows: Sequence[Any]) -> int:
        """What the sum of a step's losses is divided by; its rows, unless it is the tokens of them."""
        return len(rows)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], int]:
        """The next step as the Trainer's one batch, and what its losses are divided by."""
        rows = next(epoch_iterator)
        own = self.shared_out(rows)
        batches = [self.micro_batch([rows[place] for place in places or [0]], bool(places)) for places in own]
        return [Step(rows, own, [self._prepare_inputs(batch) for batch in batches])], self.items(rows)

    def shared_out(self, rows: Sequence[Any]) -> list[list[int]]:
        """This process's micro-batches of `rows`, as places in them."""
        lengths = [self.row_length(row) for row in rows]
        most, accelerator = self.args.per_device_eval_batch_size, self.accelerator
        return share_of(lengths, most, accelerator.num_processes, accelerator.process_index, self._fewest)

    @cached_property
    def _fewest(self) -> bool:
        """Whether more micro-batches than must be cost more than less padding saves.

        Processes wait for each other in each of them; a GPU, and a processor with a small model, take longer to start
        one than to compute its tokens.
        """
        assert self.model is not None
        weights = sum(weight.numel() for weight in self.model.parameters())
        return self.accelerator.num_processes > 1 or self.args.device.type != "cpu" or weights < LARGE

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Gradients of a step; this process's part of its mean loss, times the number of processes, which the means
        over gradients and logs divide by."""
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(inputs.batches):
            self.rows_now = len(inputs.own[number])
            with self.exchange(model, number == len(inputs.batches) - 1):
                total = total + super().training_step(model, batch, num_items_in_batch)
        return total


class _Batches(BatchSampler):
    def set_epoch(self, epoch: int) -> None:
        """Another order in each epoch. The Trainer calls this where it skips what a checkpoint has passed already."""
        if isinstance(self.sampler, SeedableRandomSampler):
            self.sampler.set_epoch(epoch)


class _Loader(DataLoader[Any]):
    def set_epoch(self, epoch: int) -> None:
        """The same; the Trainer calls this where it skips nothing."""
        batches = self.batch_sampler
        assert isinstance(batches, _Batches)
        batches.set_epoch(epoch)
