"""Sharded weights: torch's FSDP2 (`fully_shard`), under an accelerate that was launched with it.

Each process keeps its part of every weight, gradient and optimizer state; a layer's weights are gathered for as long as
it runs. The head's are gathered with the root's own, and not in a group with the last norm as accelerate would:
the log-probs are computed from its weights (models/logps/head.py) without calling it, and such a group waits for that.

Weights stay in the type that they were loaded in, and bf16 is autocast, as in one process: gathering them in bfloat16
(FSDP2's mixed precision) would halve the traffic and round also what autocast leaves in float32.
"""

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    AutocastKwargs,
    DistributedType,
    convert_outputs_to_fp32,
    get_mixed_precision_context_manager,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel


def asked_for() -> bool:
    """Whether the launcher shards the weights (pipeline/launch/launcher.py)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and os.environ.get("FSDP_VERSION") == "2"


def allow_processors() -> None:
    """Let accelerate take gloo's processes for devices: it offers FSDP for devices only, and torch for both."""
    if asked_for() and PartialState().distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def shard(model: PreTrainedModel, accelerator: Accelerator, *, keep_head: bool = False) -> None:
    """Leave this process its part of each weight of `model`, in place; nothing happens without FSDP.

    Args:
        keep_head: what does not belong to a layer (embeddings, head) stays gathered after a forward pass, for whoever
            reads it then.
    """
    if not accelerator.is_fsdp2:
        return
    # Else a copy in bfloat16 of every layer that was gathered would live to the end of the forward pass.
    accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)
    layers = set(model._no_split_modules or ())
    for module in list(model.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, reshard_after_forward=True)
    fully_shard(model, reshard_after_forward=not keep_head)
    if accelerator.native_amp:  # accelerate does this to every model that it prepares, but to one that is split already
        autocast = get_mixed_precision_context_manager(True, accelerator.autocast_handler)
        model.forward = convert_outputs_to_fp32(autocast(model.forward))


def let_go(model: nn.Module) -> None:
    """Keep only this process's part of what `keep_head` left gathered."""
    if isinstance(model, FSDPModule):
        model.reshard()


def is_sharded(model: nn.Module) -> bool:
    """Whether its weights are spread over processes."""
    return isinstance(model, FSDPModule)


def gathered_weights(model: nn.Module) -> dict[str, Tensor] | None:
    """The weights of a sharded model (of its adapters, if it has any) by name, complete on rank 0, in its main memory;
    None for another model. Every process must ask."""
    if not is_sharded(model):
        return None
    if adapters := {name: weight for name, weight in model.state_dict().items() if "lora_" in name}:
        return {name: _whole(weight).cpu() for name, weight in adapters.items()}
    found: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    tied = getattr(model, "all_tied_weights_keys", None) or {}  # the same weight under a second name
    return {name: weight for name, weight in found.items() if name not in tied}


def save_parameters(module: nn.Module, file: Path, write: bool) -> None:
    """Write the parameters of `module`, sharded or not, where `write` is true; every process must call this."""
    found = {}
    for name, parameter in module.named_parameters():
        weight = _whole(parameter.detach())
        if write:
            found[name] = weight.cpu().contiguous()
    if write:
        save_file(found, file)


@torch.no_grad()
def load_parameters(module: nn.Module, file: Path) -> None:
    """Read what `save_parameters` wrote; each process keeps its part."""
    found = load_file(file)
    for name, parameter in module.named_parameters():
        weight = found[name].to(parameter.device)
        if isinstance(parameter, DTensor):
            weight = distribute_tensor(weight, parameter.device_mesh, parameter.placements)
        parameter.copy_(weight)


def _whole(weight: Tensor) -> Tensor:
    return weight.full_tensor() if isinstance(weight, DTensor) else weight
