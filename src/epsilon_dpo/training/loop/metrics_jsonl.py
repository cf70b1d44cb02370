"""metrics.jsonl: one row per optimizer step, written while the training runs and the same after a resumption."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import write_jsonl

RESTARTED_COUNTS = {"num_tokens"}  # TRL's count starts again at zero when a training is resumed


class MetricStream(TrainerCallback):
    """Writes the training rows of the trainer's own history, which is part of every checkpoint, and tracks them live.

    After a resumption the history ends at the checkpoint, so rows that were logged after it and before the kill vanish
    from the file. The tracker gets all rows again, because a resumed stage is a new run there.
    """

    def __init__(self, file: Path, track: Callable[[dict[str, float], int], None]) -> None:
        self.file = file
        self.track = track

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.max_steps == 1 and args.get_warmup_steps(1):
            raise UserError(
                "the training has one optimizer step, and its warm-up gives the first a learning rate of 0: nothing "
                "would be learned; lower batch_size, raise num_train_epochs, max_steps or an online run's steps, or "
                "set warmup_ratio to 0."
            )
        if state.is_world_process_zero:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            rows = training_rows(state)
            write_jsonl(self.file, rows)
            for row in rows:
                self._track(row)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero and _is_training_row(state.log_history[-1]):
            row = _stable(state.log_history[-1])
            broken = [name for name, value in row.items() if not math.isfinite(value)]
            if broken:
                raise UserError(
                    f"{broken[0]} became {row[broken[0]]} at step {row['step']}; lower its learning_rate (a run's "
                    "own, if it has one) or max_grad_norm in params.yaml."
                )
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
            self._track(row)

    def _track(self, row: dict[str, float]) -> None:
        self.track({name: value for name, value in row.items() if name != "step"}, int(row["step"]))


def training_rows(state: TrainerState) -> list[dict[str, float]]:
    """The rows of `state.log_history` that training wrote, {"step": n, ...}; not those of evaluation or the summary."""
    return [_stable(row) for row in state.log_history if _is_training_row(row)]


def _is_training_row(row: dict[str, Any]) -> bool:
    return "loss" in row


def _stable(row: dict[str, Any]) -> dict[str, float]:
    """`row` with sorted names (a checkpoint sorts them), without what a resumption would change."""
    return {"step": row["step"], **{name: row[name] for name in sorted(row.keys() - RESTARTED_COUNTS - {"step"})}}
