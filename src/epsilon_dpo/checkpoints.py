"""Checkpoints that a killed training resumes from: only whole ones count.

transformers writes a checkpoint file by file into its final folder, so a kill can leave half of one. The last thing
written here is a list of its files with their sizes; a folder without it, or that does not match it, is removed before
a training resumes.
"""

import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from epsilon_dpo.outputs import read_json, write_json

LIST_OF_FILES = "whole.json"


def _sizes(checkpoint: Path) -> dict[str, int]:
    """Bytes of every file of a checkpoint by relative path."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != LIST_OF_FILES)
    return {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}


def _is_whole(checkpoint: Path) -> bool:
    """Whether the list was written, is readable and matches the files."""
    try:
        return bool(read_json(checkpoint / LIST_OF_FILES) == _sizes(checkpoint))
    except (FileNotFoundError, ValueError):
        return False


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in `folder`, for Trainer.train(resume_from_checkpoint=...); removes broken ones."""
    whole = []
    for checkpoint in folder.glob("checkpoint-*"):
        if _is_whole(checkpoint):
            whole.append(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


class WholeCheckpoints(TrainerCallback):
    """Seals each checkpoint once everything is in it.

    No checkpoint is written after the last step: transformers would train one step more when it resumes from it.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if state.global_step >= state.max_steps:
            control.should_save = False
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        PartialState().wait_for_everyone()  # each rank writes its own random state
        if state.is_world_process_zero:
            checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            partial = checkpoint / f"{LIST_OF_FILES}.partial"
            write_json(partial, _sizes(checkpoint))
            partial.rename(checkpoint / LIST_OF_FILES)
        return control
