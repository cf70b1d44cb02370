"""Keeping a policy at several points of its training (see pipeline/stage/runs.py for what is kept)."""

import math
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from epsilon_dpo.models.policy.folder import save_policy
from epsilon_dpo.pipeline.stage.files import atomic_folder, write_json
from epsilon_dpo.pipeline.stage.runs import FACTS, SNAPSHOTS
from epsilon_dpo.training.loop.checkpoints import to_disk
from epsilon_dpo.training.loop.sharding import gathered_weights


class KeepSnapshots(TrainerCallback):
    """Writes a model folder into `scratch` every `every` epochs; one that a kill cut short is written again.

    A resumed training passes the same steps again, or finds the snapshot from before the kill, which has the same
    bytes.
    """

    def __init__(self, every: float, tokenizer: PreTrainedTokenizerBase, scratch: Path) -> None:
        self.every = every
        self.tokenizer = tokenizer
        self.scratch = scratch
        self.passed = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.passed = self._marks(state)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        before, self.passed = self.passed, self._marks(state)
        last = state.global_step >= state.max_steps  # this one is the final policy
        if self.passed == before or last or model is None:
            return
        weights = gathered_weights(model)
        if state.is_world_process_zero:
            with atomic_folder(self.scratch / SNAPSHOTS / f"{state.global_step:06d}") as folder:
                save_policy(model, self.tokenizer, folder / "model", weights)
                write_json(folder / FACTS, {"step": state.global_step, "epoch": state.epoch})
                to_disk(*folder.rglob("*"), folder)
            to_disk(self.scratch / SNAPSHOTS)  # as a later checkpoint will be, from which nothing writes this again

    def _marks(self, state: TrainerState) -> int:
        """How many multiples of `every` have been reached; epochs are sums of fractions, hence the 1e-6."""
        return math.floor((state.epoch or 0.0) / self.every + 1e-6)


def part_metrics(out: Path, metrics: Path) -> None:
    """Move what a training logged from its folder `out` to `metrics`, with the facts of its snapshots: what is read
    without the weights."""
    for name in ("metrics.json", "metrics.jsonl"):
        (out / name).rename(metrics / name)
    for facts in sorted((out / SNAPSHOTS).glob(f"*/{FACTS}")):
        (metrics / facts.parent.relative_to(out)).mkdir(parents=True)
        shutil.copyfile(facts, metrics / facts.relative_to(out))


def publish_snapshots(scratch: Path, out: Path) -> None:
    """What was kept in `scratch`, also in `out`: linked and not moved, since a kill may still come before the end."""
    if (scratch / SNAPSHOTS).is_dir():
        shutil.copytree(scratch / SNAPSHOTS, out / SNAPSHOTS, copy_function=_link)


def _link(source: str, target: str) -> None:
    """Or a copy, on a file system that has no links between folders (BeeGFS, AFS)."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
