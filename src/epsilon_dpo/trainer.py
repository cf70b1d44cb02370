"""One trainer for every pairwise method: a transformers.Trainer whose loss comes from a `Method`.

What it adds to the Trainer: log-probs through the chunked head (no logits), a frozen or moving reference, exact means
over the optimizer step for the method's state and the logs, and checkpoints that hold that state. No method is named.

The loss is the mean over the pairs of a micro-batch, and the Trainer averages the micro-batches of an optimizer step,
of which the last one of an epoch may have fewer.
"""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from epsilon_dpo.errors import UserError
from epsilon_dpo.logps import Scoring, add_logps_head, head_of
from epsilon_dpo.logps_kernel import Reference, TokenLogps
from epsilon_dpo.methods.interface import Logps, Method
from epsilon_dpo.outputs import read_json, write_json
from epsilon_dpo.pair_data import PairCollator, PairData
from epsilon_dpo.pair_metrics import Totals, pair_metrics

METHOD_STATE = "method_state.json"
REFERENCE_WEIGHTS = "reference.safetensors"


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout of `model` to zero: log-ratios compare two networks, not two random halves of them."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():  # attention layers keep a number and call the functional form
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


class PreferenceTrainer(Trainer):
    """Trains `model` on preference pairs.

    Args:
        model: the policy, at its starting weights.
        reference: the frozen copy it is compared with; None exactly if the method needs none.
        method: loss and state.
        token_chunk: completion tokens whose logits exist at once.
        pad_token_id: fills rows on the right.
        callbacks: observers, e.g. checkpoints.WholeCheckpoints and metric_stream.MetricStream.
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
    ) -> None:
        if method.needs_reference != (reference is not None):
            raise ValueError(f"{type(method).__name__} and the reference do not fit")
        disable_dropout(model)
        add_logps_head(model)
        super().__init__(
            model=model,
            args=args,
            data_collator=PairCollator(pad_token_id),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=[_AfterStep(self), *callbacks],
        )
        self.model_accepts_loss_kwargs = (
            False  # our loss is a mean per micro-batch: the Trainer divides by their number
        )
        self.method = method
        self.token_chunk = token_chunk
        self.reference = None if reference is None else self._prepared(reference)
        self._step, self._window = Totals(), Totals()
        self._state_metrics: dict[str, float] = {}

    def _prepared(self, reference: PreTrainedModel) -> PreTrainedModel:
        """The reference on the policy's device, under the same autocast, without gradient."""
        disable_dropout(reference)
        add_logps_head(reference)
        reference.requires_grad_(False).eval()
        prepared: PreTrainedModel = self.accelerator.prepare_model(reference, evaluation_mode=True)
        return prepared

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Mean loss of a micro-batch (see PairCollator for `inputs`); its metrics are added to those of the step."""
        losses, metrics = self._score(model, inputs)
        self._step.add(metrics)
        return losses.mean()

    def _score(self, model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [B] with gradient, and all metrics [B] in float64."""
        with self.accelerator.autocast():
            scoring = Scoring(self.token_chunk, self._reference_states(inputs), self.method.epsilon)
            scored = model(**inputs, scoring=scoring)
        chosen, rejected = _sides(scored, inputs["completion_mask"])
        loss = self.method.loss(chosen, rejected)
        return loss.losses, pair_metrics(chosen, rejected, loss)

    @torch.no_grad()
    def _reference_states(self, inputs: dict[str, Tensor]) -> Reference | None:
        if self.reference is None:
            return None
        return Reference(self.reference(**inputs), head_of(self.accelerator.unwrap_model(self.reference)))

    @torch.no_grad()
    def finish_step(self) -> None:
        """After an optimizer step: the means of all ranks move the method's state and enter the logging window.

        Raises:
            UserError: the loss is not finite.
        """
        whole = self._step.take_over_ranks(self.accelerator)
        means = whole.means()
        self._refuse_what_is_not_finite("loss", means["loss"])
        self._window.merge(whole)
        reference = None if self.reference is None else self.accelerator.unwrap_model(self.reference)
        policy = self.accelerator.unwrap_model(self.model)
        self._state_metrics = self.method.after_step(self.state.global_step, means, policy, reference)

    def _refuse_what_is_not_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise UserError(
                f"the {name} of {self.method.numbers.method} became {value} at step {self.state.global_step}; "
                "lower its learning_rate in params.yaml, or align.max_grad_norm."
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Put the means since the last row into a training row (their exact loss replaces the Trainer's)."""
        if "loss" in logs:
            self._refuse_what_is_not_finite("gradient's norm", logs.get("grad_norm", 0.0))
            logs = {**logs, **self._window.means(), **self._state_metrics}
            self._window = Totals()
        super().log(logs, start_time)

    @torch.no_grad()
    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """The metrics of all evaluation pairs under the present state, which evaluation never changes."""
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        self.callback_handler.eval_dataloader = dataloader
        totals = Totals()
        for inputs in dataloader:
            _, metrics = self._score(model, self._prepare_inputs(inputs))
            rows = self.accelerator.gather_for_metrics(torch.stack(list(metrics.values()), dim=1))
            totals.add(dict(zip(metrics, rows.T, strict=True)))
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        means = {f"{metric_key_prefix}_{name}": value for name, value in totals.means().items()}
        return EvalLoopOutput((), None, means, num_samples=len(dataloader.dataset))  # type: ignore[arg-type]

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            write_json(checkpoint / METHOD_STATE, self.method.state_dict())
            if self.method.moves_reference:
                save_model(self.accelerator.unwrap_model(self.reference), str(checkpoint / REFERENCE_WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        checkpoint = Path(resume_from_checkpoint)
        self.method.load_state_dict(read_json(checkpoint / METHOD_STATE))
        if self.method.moves_reference:
            load_model(self.accelerator.unwrap_model(self.reference), checkpoint / REFERENCE_WEIGHTS)


class _AfterStep(TrainerCallback):
    """Calls `finish_step` after each optimizer step, before the row of that step is logged or saved."""

    def __init__(self, trainer: PreferenceTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.finish_step()


def _sides(scored: TokenLogps, completion_mask: Tensor) -> tuple[Logps, Logps]:
    """Sums over each completion, [2B, T-1] to twice [B]: the first half of the rows is chosen, the second rejected."""
    sums = {name: None if x is None else x.sum(-1) for name, x in zip(scored._fields, scored, strict=True)}
    sums["tokens"] = completion_mask[:, 1:].sum(-1)
    half = len(completion_mask) // 2
    chosen = {name: None if x is None else x[:half] for name, x in sums.items()}
    rejected = {name: None if x is None else x[half:] for name, x in sums.items()}
    return Logps(**chosen), Logps(**rejected)  # type: ignore[arg-type]
