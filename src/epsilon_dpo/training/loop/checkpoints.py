"""Checkpoints that a killed training resumes from: only sealed ones count.

transformers writes a checkpoint file by file into its final folder, so a kill can leave half of one, and a power loss
files of the right size with other bytes. The last thing written here is a list of its files with their sha256, once all
of them are on the disk; a folder without it, or that does not match it, is removed before a training resumes.
"""

import errno
import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, write_json
from epsilon_dpo.training.loop.sharding import asked_for

LIST_OF_FILES = "sealed.json"
SHARED_OUT = "pytorch_model_fsdp_0"  # accelerate's name for weights by process
NOT_OFFERED = (errno.EINVAL, errno.EOPNOTSUPP)  # of fsync where it is not implemented; a failure has another errno


def _digests(checkpoint: Path) -> dict[str, str]:
    """sha256 of every file of a checkpoint by relative path."""
    digests = {}
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != LIST_OF_FILES):
        with path.open("rb") as file:
            digests[str(path.relative_to(checkpoint))] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None: the list was written, is readable and matches the files."""
    try:
        listed = read_json(checkpoint / LIST_OF_FILES)
    except FileNotFoundError:
        return "was not finished"
    except ValueError:
        return f"is damaged ({LIST_OF_FILES})"
    found = _digests(checkpoint)
    if listed == found:
        return None
    listed = listed if isinstance(listed, dict) else {}
    differing = sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))
    return f"is damaged ({', '.join(differing) or LIST_OF_FILES})"


def last_sealed_checkpoint(folder: Path) -> str | None:
    """The newest sealed checkpoint in `folder`, for Trainer.train(resume_from_checkpoint=...); None: there is none.

    Broken ones are named on stderr and removed. Every process calls this; the first one looks, and all go on from what
    it found.

    Raises:
        UserError: its weights are sharded and those of this training are not, or the other way round.
    """
    # Two that remove the same folder stumble over each other, and one that looks later may find another newest.
    found = [_last_sealed(folder) if PartialState().is_main_process else None]
    return cast(str | None, broadcast_object_list(found)[0])


def _last_sealed(folder: Path) -> str | None:
    sealed = []
    for checkpoint in folder.glob("checkpoint-*"):
        damage = _damage(checkpoint)
        if damage is None:
            sealed.append(checkpoint)
        else:
            print(f"{checkpoint} {damage}; it is removed and not resumed from.", file=sys.stderr, flush=True)
            shutil.rmtree(checkpoint)
    if not sealed:
        return None
    for checkpoint in sealed:  # a copy has the time of the copying
        _date_by_step(checkpoint)
    last = max(sealed, key=_step)
    if (last / SHARED_OUT).is_dir() != asked_for():
        was, use = ("sharded", "launchers/fsdp.yaml") if not asked_for() else ("not sharded", "one without FSDP")
        raise UserError(
            f"{last} holds weights that are {was}, unlike those of this launcher; resume with the launcher that the "
            f"training began with ({use}), or remove {folder} to train from the start."
        )
    return str(last)


def checkpoint_of(args: TrainingArguments, state: TrainerState) -> Path:
    """Where transformers puts the checkpoint of the present step."""
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _date_by_step(checkpoint: Path) -> None:
    """Give it a time before that of every checkpoint to come, in the order of steps: transformers takes the one with
    the oldest time for the oldest, and after the clock was set back it deleted the one that it was writing."""
    os.utime(checkpoint, (_step(checkpoint), _step(checkpoint)))


def to_disk(*paths: Path) -> None:
    """Wait until the content of files, or the names in folders, would outlast a power loss.

    Some network and FUSE file systems (older SMB, gocryptfs) offer it for files alone: there nobody can wait for names.
    """
    for path in paths:
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        except OSError as error:
            if error.errno not in NOT_OFFERED or not path.is_dir():
                raise
        finally:
            os.close(opened)


class SealedCheckpoints(TrainerCallback):
    """Seals each checkpoint once everything is in it.

    No checkpoint is written after the last step: transformers would train one step more when it resumes from it.
    A resumed training saves as often as it is told to now, where transformers takes this from the checkpoint.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        state.save_steps = int(args.save_steps)

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
            checkpoint = checkpoint_of(args, state)
            partial = checkpoint / f"{LIST_OF_FILES}.partial"
            to_disk(*checkpoint.rglob("*"), checkpoint, checkpoint.parent)
            write_json(partial, _digests(checkpoint))
            to_disk(partial)
            partial.rename(checkpoint / LIST_OF_FILES)
            _date_by_step(checkpoint)
            to_disk(checkpoint)
        return control
