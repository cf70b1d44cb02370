"""In how many processes this machine trains and samples, and whether they shard the weights.

A launcher is a config file of accelerate, named by EPSILON_DPO_LAUNCHER; launchers/ holds some. It belongs to the
machine and not to the experiment: DVC does not see it, and the rows of an optimizer step, their order and their mean
are the same under each. What would change more than rounding is refused in it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.gpus import LAUNCHER
from epsilon_dpo.pipeline.stage.params import read_yaml

KINDS = {"NO": "one process", "MULTI_GPU": "copies of the weights (DDP)", "FSDP": "sharded weights (FSDP2)"}
# Of accelerate's keys those that leave the arithmetic to params.yaml; the others have to be off.
OFF: dict[str, tuple[Any, ...]] = {
    "mixed_precision": ("no",),
    "dynamo_config": ({},),
    "downcast_bf16": ("no", False),
    "gradient_accumulation_steps": (1,),
    "compute_environment": ("LOCAL_MACHINE",),
}


@dataclass(frozen=True)
class Launcher:
    """A config file of accelerate.

    Attributes:
        processes: on all machines together.
        here: on this machine, each with a GPU if there are GPUs.
        sharded: whether each process holds its part of the weights alone.
        port: where the processes meet; None: accelerate chooses.
    """

    file: Path
    processes: int
    here: int
    sharded: bool
    port: int | None


def launcher() -> Launcher | None:
    """The launcher that the environment names; None: stages are one process.

    Raises:
        UserError: the file is absent or no config of accelerate's that can be used here.
    """
    named = os.environ.get(LAUNCHER, "")
    if not named:
        return None
    file = Path(named)
    if not file.is_file():
        raise UserError(f"{LAUNCHER} names {named}, which is no file; launchers/ holds some, or unset it.")
    config = read_yaml(file)
    kind: Any = config.get("distributed_type", "NO")
    processes: Any = config.get("num_processes")
    machines: Any = config.get("num_machines", 1)
    if kind not in KINDS:
        meant = "; ".join(f"{name}: {what}" for name, what in KINDS.items())
        raise UserError(f"{file}: distributed_type is {kind}; it must be one of {meant}.")
    for key, allowed in OFF.items():
        if config.get(key, allowed[0]) not in allowed:
            raise UserError(
                f"{file}: {key} is {config[key]}, which no launcher may decide here; remove it from the file."
            )
    if not _is_count(processes) or not _is_count(machines) or processes % machines or (kind == "NO" and processes > 1):
        raise UserError(
            f"{file}: num_processes is {processes} on num_machines {machines} with distributed_type {kind}; it counts "
            "the processes of all machines, equally many on each, and NO is one process."
        )
    if kind == "FSDP":
        _require_fsdp(file, config.get("fsdp_config") or {})
    return Launcher(file, processes, processes // machines, kind == "FSDP", config.get("main_process_port"))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require_fsdp(file: Path, config: dict[str, Any]) -> None:
    """The weights are cut by training/loop/sharding.py, and loaded and kept as there."""
    needed = {
        "fsdp_version": 2,
        "fsdp_auto_wrap_policy": "NO_WRAP",
        "fsdp_state_dict_type": "SHARDED_STATE_DICT",
        "fsdp_cpu_ram_efficient_loading": False,
        "fsdp_offload_params": False,
        "fsdp_activation_checkpointing": False,
    }
    config = {"fsdp_activation_checkpointing": False} | config  # accelerate's default
    for key, value in needed.items():
        if config.get(key) != value:
            raise UserError(
                f"{file}: fsdp_config.{key} is {config.get(key)} and must be {value}; launchers/fsdp.yaml is complete."
            )
