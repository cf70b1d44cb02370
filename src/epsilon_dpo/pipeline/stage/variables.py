"""params.yaml alone decides: environment variables that libraries read and that would change a result are set aside.

accelerate, for one, takes its precision from ACCELERATE_MIXED_PRECISION: weights trained under it would stand in
dvc.lock as those of `bf16: false`. Such variables are removed before the libraries are imported, and named in a line.

What says which instructions of the processor are used stays, because a result belongs to a machine anyway and somebody
may want another's; it is named as well. A variable that asks for an engine of accelerate's (DeepSpeed, FSDP) is refused
where a training is set up (training/loop/arguments.py): without it something else would run than was started.
"""

import hashlib
import os
import re
import sys
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path

from epsilon_dpo.pipeline.observability.errors import redacted

ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
# By the beginning of their names. Precision, devices, compilation, accumulation and clipping of accelerate (and of the
# transformers that reads the same names), what they hand to their engines, and bfloat16 on XLA in the place of float32.
DECIDED = (
    "ACCELERATE_",
    "FSDP_",
    "PARALLELISM_CONFIG_",
    "MEGATRON_LM_",
    "FP8_",
    "XLA_USE_BF16",
    "XLA_DOWNCAST_BF16",
    # Arithmetic in fewer bits than params.yaml says, and other kernels than torch and transformers choose.
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "TORCH_BLAS_PREFER_",
    "TORCH_LINALG_PREFER_",
    "TORCH_CUDNN_",
    "TORCH_MKLDNN_MATMUL_MIN_",
    "TORCH_LINEAR_FLATTEN_3D",
    "TRITON_F32_DEFAULT",
    "PYTORCH_TUNABLEOP_",
    "VLLM_",
    "TRANSFORMERS_SDPA_FORCE_GQA",
    "TRANSFORMERS_DISABLE_DEEPGEMM_LINEAR",
)
HARMLESS = (
    "ACCELERATE_LOG_LEVEL",
    "ACCELERATE_DEBUG_MODE",
    "ACCELERATE_ENABLE_RICH",
    "ACCELERATE_DISABLE_RICH",
    "VLLM_API_KEY",  # of a server that somebody runs beside us
    "VLLM_CACHE_ROOT",
    "VLLM_CONFIG_ROOT",
    "VLLM_DO_NOT_TRACK",
    "VLLM_LOGGING_LEVEL",
    "VLLM_NO_USAGE_STATS",
)
PROCESSOR = (
    "ATEN_CPU_CAPABILITY",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "NPY_DISABLE_CPU_FEATURES",
    "GLIBC_TUNABLES",
)
DEVICES = Path("/dev")
CUDA, ROCM = ("nvidia[0-9]*", "dxg"), ("kfd", "dxg")  # in DEVICES; dxg is WSL's for any GPU

_said: set[str] = set()  # of PROCESSOR, which stay


def let_params_decide() -> None:
    """Remove from the environment what would change a result, and say so on stderr; a second call has nothing to do."""
    kept = (*ENGINES, *HARMLESS)
    removed = {name: os.environ[name] for name in sorted(os.environ) if name.startswith(DECIDED) and name not in kept}
    if removed:  # said while a secret among them is still known as one
        _say(f"not used, because params.yaml alone decides: {_named(removed)}")
    for name in removed:
        del os.environ[name]
    rounding = {name: os.environ[name] for name in PROCESSOR if name in os.environ and name not in _said}
    _said.update(rounding)
    if rounding:
        _say(f"this makes sums round as on another processor: {_named(rounding)}")


def add_up_in_one_thread() -> None:
    """Let numpy's and scipy's BLAS, loaded already or not yet, use one thread. torch's threads are params.yaml's.

    Else a product is cut into as many parts as there are processors, and rounded accordingly: an end of an interval
    differed in its last bits.
    """
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    if "numpy" not in sys.modules:
        return
    from threadpoolctl import ThreadpoolController

    for library in ThreadpoolController().lib_controllers:
        if {"numpy.libs", "scipy.libs"} & {*Path(library.filepath).parts}:
            library.set_num_threads(1)


def under_this_processor(fingerprint: str) -> str:
    """`fingerprint`, or one of its own where a GPU or a variable of PROCESSOR rounds otherwise: what a killed execution
    had finished must not be mixed with what another arithmetic makes of the rest."""
    rounding = {name: os.environ[name] for name in PROCESSOR if name in os.environ}
    if has_gpu() and visible_gpus() != []:
        rounding["gpu"] = "1"
    return hashlib.sha256(f"{fingerprint} {sorted(rounding.items())}".encode()).hexdigest() if rounding else fingerprint


def has_gpu() -> bool:
    """Whether this machine has one that the installed torch can use; CUDA is not asked, which would start it.

    A laptop with AMD's or Intel's graphics has a device, too, and torch's build for processors uses none.
    """
    build = version("torch")
    names = () if "+cpu" in build else ROCM if "+rocm" in build else CUDA
    return any(file for name in names for file in DEVICES.glob(name))


def visible_gpus() -> list[str] | None:
    """Those that CUDA_VISIBLE_DEVICES lets CUDA see: it reads up to the first name of no GPU, such as the usual -1.
    None: the variable is not set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return None
    return list(takewhile(re.compile(r"\d|GPU-|MIG-").match, map(str.strip, named.split(","))))


def _named(variables: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in variables.items())


def _say(line: str) -> None:
    print(f"environment: {redacted(line)}", file=sys.stderr, flush=True)
