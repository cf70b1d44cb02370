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
from epsilon_dpo.pipeline.stage.gpus import LAUNCHER, see_one, take_free_gpus

Module = TypeVar("Module", bound=nn.Module)

# Parameters of glibc's mallopt (malloc.h), in bytes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# The largest that glibc takes: 2.34 and older refuse an M_MMAP_THRESHOLD above 32 MB.
KEEP = {M_TRIM_THRESHOLD: (2**31 - 1,), M_MMAP_THRESHOLD: (2**30, 2**25)}


def set_up(seed: int, threads: int) -> None:
    """Fix what a result depends on beside its inputs: the random states and the number of threads.

    Float sums depend on the thread count (a retrained SFT model differed between 1 and 2 threads), so it is set in
    params.yaml and not the machine's choice.

    Raises:
        UserError: several GPUs are visible to a stage that is one process, and no launcher says that the others are
            meant for other stages; a launcher's processes see fewer or more than they are; or this torch cannot use
            the GPUs here, or has no code for one so old.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of a launcher
    take_free_gpus(processes)
    if processes == 1 and LAUNCHER in os.environ:
        see_one()
    gpus = torch.cuda.device_count()
    if gpus > processes == 1:
        raise UserError(
            f"this stage sees {gpus} GPUs and is one process: {LAUNCHER}=launchers/ddp.yaml, "
            "with as many num_processes in it, uses them all; or let CUDA_VISIBLE_DEVICES name one, and run stages "
            "side by side on the others: dvc --wait-for-lock repro -s align@RUN."
        )
    if gpus not in (0, processes):
        verb = "lower" if gpus < processes else "raise"
        raise UserError(
            f"the launcher has {processes} processes here and they see {gpus} GPUs; {verb} its "
            f"num_processes, or let CUDA_VISIBLE_DEVICES name {processes}."
        )
    if gpus:
        _refuse_unusable_gpu(gpus)
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


def _refuse_unusable_gpu(gpus: int) -> None:
    """One that is counted, which asks the driver alone, and that CUDA cannot start on would leave all to the processor,
    with nothing but a warning. Of one too old the driver may well answer, and the first kernel would end in a
    traceback: CUDA 13 has none before Turing."""
    if not torch.cuda.is_available():
        raise UserError(
            f"{gpus} GPUs are here, and this torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use them, "
            "which most often needs a newer driver (nvidia-smi names the CUDA that it has); update it, or install a "
            "torch for it (rm -rf .venv, and make with TORCH=); CUDA_VISIBLE_DEVICES=-1 lets the processor compute."
        )
    major, minor = torch.cuda.get_device_capability()
    known = re.findall(r"\bsm_(\d+)", " ".join(torch.cuda.get_arch_list()))  # none in ROCm's list
    oldest = min(map(int, known), default=0)
    if 10 * major + minor < oldest:
        raise UserError(
            f"{torch.cuda.get_device_name()} is a GPU of compute capability {major}.{minor}, and this torch supports "
            f"those from {oldest / 10:.1f} on; CUDA_VISIBLE_DEVICES=-1 uses the CPU."
        )


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
