"""Seeds, threads, memory and device of a process that computes with torch."""

import ctypes
import os
import random
import re
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from transformers.utils import logging

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.variables import visible_gpus
from epsilon_dpo.pipeline.stage.workplace import hold_some

Module = TypeVar("Module", bound=nn.Module)

# Parameters of glibc's mallopt (malloc.h), in bytes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LAUNCHER = "EPSILON_DPO_LAUNCHER"  # names the config file of launch/
TAKEN = "EPSILON_DPO_GPUS_TAKEN"  # said to the processes that a stage starts: these GPUs are its own
# The largest that glibc takes: 2.34 and older refuse an M_MMAP_THRESHOLD above 32 MB.
KEEP = {M_TRIM_THRESHOLD: (2**31 - 1,), M_MMAP_THRESHOLD: (2**30, 2**25)}

_of_all_gpus: dict[str, str] = {}  # the environment before this process set aside all GPUs but its own


def set_up(seed: int, threads: int) -> None:
    """Fix what a result depends on beside its inputs: the random states and the number of threads.

    Float sums depend on the thread count (a retrained SFT model differed between 1 and 2 threads), so it is set in
    params.yaml and not the machine's choice.

    Raises:
        UserError: several GPUs are visible to a stage that is one process, and no launcher says that the others are
            meant for other stages; a launcher's processes see fewer or more than they are; or this torch has no code
            for a GPU as old as the one here.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of a launcher
    take_free_gpus(processes)
    if processes == 1 and LAUNCHER in os.environ:
        if not _of_all_gpus:
            _of_all_gpus.update(os.environ)
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    gpus = torch.cuda.device_count()
    if gpus > processes == 1:
        raise UserError(
            f"this stage sees {gpus} GPUs and is one process: {LAUNCHER}=launchers/ddp.yaml uses "
            "them all; or let CUDA_VISIBLE_DEVICES name one, and run stages side by side on the others: "
            "dvc --wait-for-lock repro -s align@RUN."
        )
    if gpus not in (0, processes):
        verb = "lower" if gpus < processes else "raise"
        raise UserError(
            f"the launcher has {processes} processes here and they see {gpus} GPUs; {verb} its "
            f"num_processes, or let CUDA_VISIBLE_DEVICES name {processes}."
        )
    _refuse_older_gpu()
    torch.set_num_threads(threads)
    random.seed(seed)  # transformers.set_seed does this too, and loads its Trainer
    np.random.seed(seed)
    torch.manual_seed(seed)  # of every device
    torch.use_deterministic_algorithms(True, warn_only=True)
    # cuDNN's attention has NaN for gradients where a row attends to little (torch 2.13: pytorch #196678, trl #7181).
    torch.backends.cuda.enable_cudnn_sdp(False)
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # torch's docs: else products on a GPU may add in another order
    # Determinism does not need that torch.empty() is filled with NaN, which takes a tenth of the time of sampling.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set by a property
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # of loading and writing shards; training, sampling and scoring show their own
    _keep_freed_memory()


def _refuse_older_gpu() -> None:
    """Its driver may well answer, and the first kernel would end in a traceback: CUDA 13 has none before Turing."""
    if not torch.cuda.is_available():
        return
    major, minor = torch.cuda.get_device_capability()
    known = re.findall(r"\bsm_(\d+)", " ".join(torch.cuda.get_arch_list()))  # none in ROCm's list
    oldest = min(map(int, known), default=0)
    if 10 * major + minor < oldest:
        raise UserError(
            f"{torch.cuda.get_device_name()} is a GPU of compute capability {major}.{minor}, and this torch has code "
            f"from {oldest / 10:.1f} on; CUDA_VISIBLE_DEVICES=-1 lets the processor compute."
        )


def environment_of_all_gpus() -> dict[str, str]:
    """For a launcher's processes: also where this one has set aside all GPUs but its own."""
    return dict(_of_all_gpus or os.environ)


def take_free_gpus(count: int) -> None:
    """Experiments that run side by side (`dvc queue start -j 4`) share one environment: each of their stages takes
    `count` of the GPUs that CUDA_VISIBLE_DEVICES names and no other stage has, and waits while there are fewer.

    Before anything asks CUDA, which reads the variable once.
    """
    names = visible_gpus() or []
    if "DVC_EXP_NAME" in os.environ and len(names) >= count and TAKEN not in os.environ:
        of = {f"gpu-{name.replace('/', '-')}": name for name in names}  # a part of a GPU has slashes in its name
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(of[lock] for lock in hold_some(list(of), count))
        os.environ[TAKEN] = "1"


def _keep_freed_memory() -> None:
    """Let glibc reuse the logits' memory instead of returning it to the kernel after every use.

    Results do not change; the default SFT took 23 s instead of 84 s, of which 54 s were page faults. Other C libraries
    have no mallopt and stay as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, values in KEEP.items():
            any(mallopt(parameter, value) for value in values)  # until one is taken: 1


def on_device(model: Module) -> Module:
    """`model` itself, in evaluation mode and where sampling, judging and KL compute: the CUDA GPU if there is one, else
    the CPU."""
    nn.Module.to(model, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return model.eval()
