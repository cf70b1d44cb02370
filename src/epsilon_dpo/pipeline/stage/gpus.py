"""Which GPUs a stage's process sees: decided before anything asks CUDA, which reads CUDA_VISIBLE_DEVICES once."""

import os
from importlib.util import find_spec

from epsilon_dpo.pipeline.stage.variables import has_gpu, visible_gpus
from epsilon_dpo.pipeline.stage.workplace import hold_some

LAUNCHER = "EPSILON_DPO_LAUNCHER"  # names the config file of launch/
TAKEN = "EPSILON_DPO_GPUS_TAKEN"  # said to the processes that a stage starts: these GPUs are its own
VISIBLE = "CUDA_VISIBLE_DEVICES"

_before: list[str | None] = []  # VISIBLE, if this process has set aside all GPUs but one


def choose_before_imports() -> None:
    """Choose early where bitsandbytes is installed, which peft imports and which asks CUDA at once: a choice when the
    stage begins to compute came too late, and the stage was refused for all the GPUs that it saw.

    Experiments side by side that each launch processes still choose later.
    """
    if not has_gpu() or find_spec("bitsandbytes") is None:
        return
    if LAUNCHER not in os.environ:
        take_free_gpus(1)
    elif "DVC_EXP_NAME" not in os.environ:
        see_one()


def see_one() -> None:
    """Under a launcher the stage's own process computes on the first GPU; the others are the launched ones'."""
    if not _before:
        _before.append(os.environ.get(VISIBLE))
    os.environ[VISIBLE] = os.environ.get(VISIBLE, "0").split(",")[0]


def environment_of_all_gpus() -> dict[str, str]:
    """For a launcher's processes: also where this one has set aside all GPUs but its own."""
    found = dict(os.environ)
    for visible in _before:
        del found[VISIBLE]
        found |= {} if visible is None else {VISIBLE: visible}
    return found


def take_free_gpus(count: int) -> None:
    """Experiments that run side by side (`dvc queue start -j 4`) share one environment: each of their stages takes
    `count` of the GPUs that CUDA_VISIBLE_DEVICES names and no other stage has, and waits while there are fewer."""
    names = visible_gpus() or []
    if "DVC_EXP_NAME" in os.environ and len(names) >= count and TAKEN not in os.environ:
        of = {f"gpu-{name.replace('/', '-')}": name for name in names}  # a part of a GPU has slashes in its name
        os.environ[VISIBLE] = ",".join(of[lock] for lock in hold_some(list(of), count))
        os.environ[TAKEN] = "1"
