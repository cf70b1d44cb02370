"""What the trainers of a policy beside a reference share; `finish_step` and what a step trains on are each one's own.

Log-probs through the chunked head (no logits), a frozen or moving reference (or the policy without its adapter), exact
means over the optimizer step in the logs, the evaluation on given pairs, and checkpoints that hold the method's state.
No method is named.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from epsilon_dpo.methods.interface import Method
from epsilon_dpo.methods.online import AnyMethod
from epsilon_dpo.models.logps.head import add_logps_head
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, write_json
from epsilon_dpo.training.alignment.pair_data import PairCollator, PairData
from epsilon_dpo.training.alignment.pair_logps import PairLogps
from epsilon_dpo.training.alignment.pair_metrics import Totals, pair_metrics
from epsilon_dpo.training.alignment.recomputed_attention import recompute_attention
from epsilon_dpo.training.alignment.reference_model import disable_dropout, references
from epsilon_dpo.training.loop.adapters import ResumesAdapter
from epsilon_dpo.training.loop.checkpoints import checkpoint_of
from epsilon_dpo.training.loop.sharding import let_go, load_parameters, save_parameters, shard
from epsilon_dpo.training.loop.whole_steps import ReadsAll

METHOD_STATE = "method_state.json"
REFERENCE_WEIGHTS = "reference.safetensors"
NO_STEP = 2**32 - 1  # in the place of a step's number: evaluation shares no random numbers with training


class MethodTrainer(ReadsAll, ResumesAdapter):
    """Trains `model` as `method` says.

    Args:
        model: the policy, at its starting weights.
        reference: the frozen copy it is compared with, or `model` itself if that has an adapter (adapters.py); None
            exactly if the method needs none.
        method: whose state follows the steps. Given pairs are evaluated by it, or by `on_pairs()` of an online one.
        token_chunk: completion tokens whose logits exist at once.
        train_dataset: the pairs of steps; an online method, which draws its own, counts its steps by it.
        pad_token_id: fills rows on the right.
        callbacks: observers, e.g. loop.checkpoints.SealedCheckpoints and loop.metrics_jsonl.MetricStream.
        share_prompt: a pair is one row, see shared_prompt.py.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel | None,
        method: AnyMethod,
        token_chunk: int,
        args: TrainingArguments,
        train_dataset: Any,
        eval_dataset: PairData,
        pad_token_id: int,
        callbacks: list[TrainerCallback],
        share_prompt: bool,
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
            data_collator=list,  # rows as they are: `collate` makes batches, of a step's once they are cut by length
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=[_AfterStep(self), *callbacks],
        )
        self.model_accepts_loss_kwargs = True  # compute_loss divides by what the step holds itself
        self.method = method
        self.on_pairs: Method[Any] = method if isinstance(method, Method) else method.on_pairs()
        self.collate = PairCollator(pad_token_id, share_prompt)
        self.reference, initial = references(model, reference, self.on_pairs.moves_reference, self.accelerator)
        shard(model, self.accelerator)  # with all its adapters
        self.scorer = PairLogps(self.on_pairs, self.reference, initial, token_chunk, self.accelerator)
        self._step, self._window = Totals(), Totals()
        self._state_metrics: dict[str, float] = {}

    @abstractmethod
    def finish_step(self) -> None:
        """After an optimizer step, before its row is logged or it is saved."""

    def _random(self, *key: int) -> torch.Generator:
        """Random numbers that depend on the seed and `key` only: nothing of them has to be saved."""
        seed = np.random.SeedSequence([self.args.seed, *key]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed))

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
            logs = {**logs, **self.window_means(), **self._state_metrics}
        super().log(logs)

    def window_means(self) -> dict[str, float]:
        """Means of what was logged since the last row; the next window begins."""
        means = self._window.means()
        self._window = Totals()
        return means

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
            totals.add(self._gathered(pair_metrics(chosen, rejected, self.on_pairs.loss(chosen, rejected))))
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
        checkpoint = checkpoint_of(self.args, self.state)
        if self.args.should_save:
            write_json(checkpoint / METHOD_STATE, self.method.state_dict())
        if self.reference is not None and self.on_pairs.moves_reference:
            let_go(self.reference.weights)
            save_parameters(self.reference.weights, checkpoint / REFERENCE_WEIGHTS, write=self.args.should_save)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        checkpoint = Path(resume_from_checkpoint)
        self.method.load_state_dict(read_json(checkpoint / METHOD_STATE))
        if self.reference is not None and self.on_pairs.moves_reference:
            let_go(self.reference.weights)
            load_parameters(self.reference.weights, checkpoint / REFERENCE_WEIGHTS)


class _AfterStep(TrainerCallback):
    """Calls `finish_step` after each optimizer step, before the row of that step is logged or saved."""

    def __init__(self, trainer: MethodTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raises: UserError: its epochs are too short for the method to be what it is called; `max_steps`, which cuts
        a training short on purpose, only gets a caution of stage `check`."""
        method, least = self.trainer.method, self.trainer.on_pairs.min_steps
        if args.max_steps <= 0 and state.max_steps < least:
            raise UserError(
                f"the training has {state.max_steps} optimizer steps, and {method.config.method} with this config "
                f"needs {least} or more to be that method: raise num_train_epochs, or change the run in params.yaml "
                "(docs/methods.md)."
            )

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.finish_step()
