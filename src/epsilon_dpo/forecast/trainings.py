"""The trainings of params.yaml: stage sft, and stage align by what its runs compare the policy with."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedConfig

from epsilon_dpo.check.params_file import ParamsFile
from epsilon_dpo.forecast.architecture import Sizes, model_of, sizes_of
from epsilon_dpo.forecast.flops import Products, flops, of_training, plus_references
from epsilon_dpo.forecast.lengths import Form, Lengths, chosen_rows, shared_rows, two_rows
from epsilon_dpo.forecast.live import without_memory
from epsilon_dpo.forecast.machine import Machine, accumulates
from epsilon_dpo.forecast.memory import Memory, quantised, sharded, unsharded
from epsilon_dpo.forecast.needs import Disk, Needs, hours
from epsilon_dpo.forecast.simulation import How, References, Rows, Scored, Simulated, alignment_step, sft_step
from epsilon_dpo.methods.interface import Method
from epsilon_dpo.methods.online import AnyMethod
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.models.base.params import PretrainedModel
from epsilon_dpo.training.loop.params import Adaptable

BYTES = {torch.float32: 4, torch.bfloat16: 2}
AT_ONCE = 3  # checkpoints in scratch/: save_total_limit 2, and the one that is being written


@dataclass(frozen=True)
class Given:
    """What every forecast is made from.

    Attributes:
        train: of the pairs that the stage learns from, or whose prompts it answers.
    """

    params: ParamsFile
    config: PreTrainedConfig
    sizes: Sizes
    machine: Machine
    train: Lengths


def given(params: ParamsFile, config: PreTrainedConfig, machine: Machine, train: Lengths) -> Given:
    with without_memory():
        sizes = sizes_of(model_of(config, torch.float32))
    return Given(params, config, sizes, machine, train)


def base_dtype(params: ParamsFile) -> torch.dtype:
    """Of the weights that stage base writes."""
    base = params.base
    found: torch.dtype = getattr(torch, base.dtype) if isinstance(base, PretrainedModel) else torch.float32
    return found


def policy_dtype(params: ParamsFile) -> torch.dtype:
    """Of the SFT policy's: an adapter is merged in float32 (models/policy/folder.py)."""
    return torch.float32 if sft_is_adapter(params) else base_dtype(params)


def sft_is_adapter(params: ParamsFile) -> bool:
    return params.sft is not None and params.sft.lora is not None


def merged_copy(of: Given) -> float:
    """Bytes in scratch/ of an adapter that is merged for a program that cannot: in float32, for the time."""
    return 4.0 * of.sizes.parameters


def of_sft(of: Given) -> Needs | None:
    """None: `sft: null`."""
    block = of.params.sft
    if block is None:
        return None
    every_token = not block.completion_only_loss or of.machine.device == "cpu"  # where TRL scores every position
    form, micro = chosen_rows(of.train, every_token), block.micro_batch_size
    rows = Rows(micro, form.columns, micro * form.most_scored)
    memory, step = _memory(of, block, base_dtype(of.params), 1, lambda how: sft_step(of.config, how, rows))
    products = of_training(block.lora is not None, block.gradient_checkpointing, recomputed_attention=False)
    work = _work(of, block, form, products)
    disk = _disk(of, block, step, base_dtype(of.params), policies=1, moving=False)
    time = hours(work, of.machine, _in_bf16(block, base_dtype(of.params)))
    return Needs("sft", [], memory, of.machine.gpus, work, time, disk, "")


def of_copies(of: Given) -> list[Needs]:
    """The copy of the model that stage base makes, and the second one of `sft: null`."""
    disk = Disk(out=of.sizes.parameters * BYTES[base_dtype(of.params)])
    stages = ("base",) if of.params.sft is not None else ("base", "sft")
    return [Needs(stage, [], None, 0, None, None, disk) for stage in stages]


def of_align(of: Given) -> list[Needs]:
    """A line for each kind of reference that runs need, with FLOPs, time and disk of all runs that need it."""
    kinds: dict[References, list[str]] = {}
    methods = methods_of(of)
    for name, method in methods.items():
        kinds.setdefault(references_of(method, of.params.align.lora is not None), []).append(name)
    return [_of_kind(of, kind, {name: methods[name] for name in names}) for kind, names in kinds.items()]


def methods_of(of: Given) -> dict[str, AnyMethod]:
    """By run."""
    return {name: method_of(name, entry) for name, entry in of.params.runs.items()}


def references_of(method: AnyMethod, adapter: bool) -> References:
    if not method.needs_reference:
        return References(0)
    moves = isinstance(method, Method) and method.moves_reference
    return References(2 if moves else 1, separate=not adapter)


def _of_kind(of: Given, references: References, methods: dict[str, AnyMethod]) -> Needs:
    block, dtype = of.params.align, policy_dtype(of.params)
    form = (shared_rows if block.share_prompt else two_rows)(of.train)
    micro = block.micro_batch_size
    texts = micro if block.share_prompt else 2 * micro
    rows = Rows(texts, form.columns, micro * form.most_scored, block.share_prompt)
    pairwise = [method for method in methods.values() if isinstance(method, Method)]
    scored = _scored(references, block.logps_token_chunk, pairwise)
    models = 1 + references.models
    memory, step = _memory(of, block, dtype, models, lambda how: alignment_step(of.config, how, rows, scored))
    recomputed = of.sizes.eager and not block.gradient_checkpointing
    own = of_training(block.lora is not None, block.gradient_checkpointing, recomputed)
    several, online = accumulates(block, of.machine.processes), len(pairwise) < len(methods)
    works = []
    for method in pairwise:
        passes = references.count + further_passes(method, several)
        works.append(_work(of, block, form, plus_references(own, passes, references.moving, scored.kl_gradient)))
    work = None if online or None in works else math.fsum(works)  # type: ignore[arg-type]  # there is no None in it
    disk = _disk(of, block, step, dtype, policies_of(of, methods), references.moving)
    if _in_4_bits(block) and sft_is_adapter(of.params):
        # Each process quantises a copy of its own (training/loop/adapters.py); a resumed one has its checkpoints, too.
        disk = replace(disk, scratch=disk.scratch + of.machine.processes * merged_copy(of))
    note = "what online runs draw is not counted" if online else ""
    time = hours(work, of.machine, _in_bf16(block, dtype))
    return Needs("align", list(methods), memory, of.machine.gpus, work, time, disk, note)


def _scored(references: References, token_chunk: int, methods: list[Method[Any]]) -> Scored:
    """What the log-prob head computes if any of `methods` asks for it."""
    return Scored(
        references,
        token_chunk,
        next((method.eps_c for method in methods if method.eps_c is not None), None),
        sum_sq_probs=any(method.sum_sq_probs for method in methods),
        kl_gradient=any(method.kl_gradient for method in methods),
    )


def _in_bf16(block: Adaptable, dtype: torch.dtype) -> bool:
    """Whether the products are: under autocast, of weights that are, and of quantised ones (adapters._quantised)."""
    return block.bf16 or dtype is torch.bfloat16 or _in_4_bits(block)


def _in_4_bits(block: Adaptable) -> bool:
    return block.lora is not None and block.lora.quantise is not None


def _memory(
    of: Given,
    block: Adaptable,
    dtype: torch.dtype,
    models: int,
    simulate: Callable[[How], Simulated],
) -> tuple[Memory, Simulated]:
    """On each GPU, and the step that it was taken from; QLoRA is not sharded here, each GPU holds all of it."""
    machine, lora, in_4_bits = of.machine, block.lora, _in_4_bits(block)
    shards = machine.shards and not in_4_bits
    computed = torch.float32 if in_4_bits else dtype
    several = accumulates(block, machine.processes)
    how = How(computed, block.bf16, block.gradient_checkpointing, lora, several, machine.device, shards)
    step = simulate(how)
    if shards:
        frozen = 0 if lora is None else of.sizes.parameters * BYTES[dtype]
        master = _master(block, dtype)
        return sharded(step, of.sizes, machine.gpus, frozen, master, BYTES[dtype], BYTES[computed], models), step
    return unsharded(quantised(step, of.sizes) if in_4_bits else step, machine.processes), step


def _master(block: Adaptable, dtype: torch.dtype) -> int:
    """Bytes of a trained parameter under FSDP2: as loaded (training/loop/sharding.py), an adapter's 4."""
    return BYTES[dtype] if block.lora is None else 4


def _work(of: Given, block: Adaptable, form: Form, products: Products) -> float | None:
    """FLOPs of the training; None where it is not known how many pairs there are."""
    if block.max_steps is not None:
        return block.max_steps * block.batch_size * flops(of.sizes, form, products)
    if of.train.count is None:
        return None
    return block.num_train_epochs * of.train.count * flops(of.sizes, form, products)


def further_passes(method: Method[Any], accumulates: bool) -> int:
    """Forward passes of a step beside the reference's: docs/methods.md, "extra passes"."""
    ahead = 1 + int(method.needs_reference) if method.looks_ahead and accumulates else 0
    return 2 * int(method.mismatched) + ahead


def policies_of(of: Given, methods: Mapping[str, AnyMethod]) -> int:
    """How many these runs keep."""
    return sum(1 + _snapshots(of, of.params.align, method) for method in methods.values())


def _snapshots(of: Given, block: Adaptable, method: AnyMethod) -> int:
    """Policies that a run keeps beside the last one, as training/alignment/snapshots.py counts them."""
    every = method.config.snapshot_epochs
    if every is None:
        return 0
    if of.train.count is None:
        return max(math.ceil(block.num_train_epochs / every - 1e-6) - 1, 0)
    of_epoch = math.ceil(of.train.count / block.batch_size)
    epochs = block.num_train_epochs if block.max_steps is None else block.max_steps / of_epoch
    steps = math.ceil(epochs * of_epoch - 1e-6) - 1  # the last one's is the final policy
    return max(min(math.floor(steps / of_epoch / every + 1e-6), steps), 0)


def _disk(of: Given, block: Adaptable, step: Simulated, dtype: torch.dtype, policies: int, moving: bool) -> Disk:
    full = of.sizes.parameters * BYTES[dtype]
    model = full if block.lora is None else 4 * step.trained
    checkpoint = model + 2 * step.trained_bytes + (model if moving else 0)
    return Disk(out=policies * model, scratch=AT_ONCE * checkpoint)
