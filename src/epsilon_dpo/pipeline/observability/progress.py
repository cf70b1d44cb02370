"""The progress bar of a training: one line with the current loss, and no further line for each row of metrics."""

from typing import Any

from transformers import ProgressCallback, Trainer, TrainerControl, TrainerState, TrainingArguments


class TrainingBar(ProgressCallback):
    """transformers' bars of training and evaluation; metrics.jsonl holds the rows that it would print."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.4f}", refresh=False)  # shown with the next step


def show_one_bar(trainer: Trainer) -> None:
    """Replace the printing bar that every Trainer starts with."""
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(TrainingBar())
