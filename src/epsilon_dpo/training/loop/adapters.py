"""Training an adapter (LoRA, arXiv 2106.09685) on frozen weights instead of the weights, by peft.

The adapter is put *into* the model and no wrapper around it, so that whatever works on a model (the log-prob head, the
Trainer, TRL) works on this one. It starts as an exact zero. With `quantise: nf4` the frozen weights are held in 4 bits
(QLoRA, arXiv 2305.14314) while the adapter is trained; what is saved, sampled and compared afterwards is the adapter on
the weights that were never quantised (models/policy/folder.py).

A reference then needs no weights of its own: it is the same model without the adapter, and one that follows the policy
is the same model under a second adapter.
"""

import copy
import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel, Trainer
from transformers.pytorch_utils import Conv1D

from epsilon_dpo.models.policy.folder import ADAPTER, WEIGHTS, has_adapter, load_policy, merged_policy
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.training.loop.params import LoRA
from epsilon_dpo.training.loop.sharding import asked_for, is_sharded

FOLLOWER = "reference"  # the adapter of a reference that moves


def start_from(folder: Path, lora: LoRA | None, seed: int, scratch: Path | None = None) -> PreTrainedModel:
    """The policy in `folder`, ready to be trained: all of it, or a new adapter on it.

    Args:
        seed: RNG seed of the adapter's first half; the second is zero.
        scratch: where an adapter in `folder` is merged before it is quantised, as of merged_policy.

    Raises:
        UserError: there is no module of a name in `lora.target_modules`, or bitsandbytes is not installed.
    """
    if lora is None:
        return load_policy(folder)
    model = load_policy(folder) if lora.quantise is None else _quantised(folder, scratch)
    from peft import LoraConfig

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=target_modules(model, lora.target_modules),
        task_type="CAUSAL_LM",
        revision=digest(folder),
    )
    _add(model, config, ADAPTER, seed)
    model.name_or_path = str(folder)  # see save_policy
    return model


def _add(model: PreTrainedModel, config: Any, name: str, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(config, name)
    config.base_model_name_or_path = None  # else saving a checkpoint looks for that name on the Hub
    in_float32(model, name)


def target_modules(model: PreTrainedModel, wanted: list[str] | str) -> list[str]:
    """The names of the modules to adapt, sorted; `all-linear` is every projection but the output's.

    Raises:
        UserError: there is none of a name, or `all-linear` would leave out experts.
    """
    head = model.get_output_embeddings()
    named = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D))
    available = sorted({name.rsplit(".", 1)[-1] for name, module in named if module is not head})
    if wanted == "all-linear":
        _refuse_experts(model, available)
        return available
    unknown = [name for name in wanted if name not in available]
    if unknown:
        raise UserError(
            f"lora.target_modules: {type(model).__name__} has no {unknown[0]} that can be adapted; choose among "
            f"{', '.join(available)}, or write all-linear."
        )
    return sorted(wanted)


def expert_weights(model: nn.Module) -> int:
    """How many weights of a mixture of experts are its experts': parameters of three dimensions, and no projections."""
    modules = (module for module in model.modules() if not isinstance(module, nn.Conv1d))
    own = (weight for module in modules for weight in module.parameters(recurse=False))
    return sum(weight.numel() for weight in own if weight.dim() == 3)


def _refuse_experts(model: PreTrainedModel, available: list[str]) -> None:
    if experts := expert_weights(model):
        share = experts / sum(weight.numel() for weight in model.parameters())
        raise UserError(
            f"lora.target_modules: all-linear leaves out the experts of {type(model).__name__}, {share:.0%} of its "
            f"weights; write which of {', '.join(available)} to adapt, or set lora to null."
        )


def _quantised(folder: Path, scratch: Path | None) -> PreTrainedModel:
    """The policy in `folder` with its projections in 4 bits, its other weights in float32."""
    if asked_for():
        raise UserError(
            "lora.quantise: nf4 holds weights of a type that this launcher cannot shard (FSDP); take "
            "launchers/ddp.yaml, whose processes hold all of them, or set quantise to null in params.yaml."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "lora.quantise: nf4 needs bitsandbytes, which is not installed (see docs/howto.md); install it, or set "
            "quantise to null in params.yaml."
        )
    from bitsandbytes.nn import Linear4bit
    from peft import prepare_model_for_kbit_training

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    with merged_policy(folder, scratch) as merged:
        model = AutoModelForCausalLM.from_pretrained(
            merged,
            trust_remote_code=False,
            dtype="auto",
            quantization_config=settings,
            local_files_only=True,
        )
    for module in model.modules():
        if isinstance(module, Linear4bit):  # on a CPU, evaluation repacks the weights so that no gradient passes
            module.support_avx512bf16_for_cpu = False
    prepared: PreTrainedModel = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return prepared


def adapter_weights(model: nn.Module, name: str) -> nn.ParameterList:
    """The parameters of one adapter, in an order that adapters of one model share."""
    found = [weight for path, weight in model.named_parameters() if "lora_" in path and f".{name}." in path]
    return nn.ParameterList(found)


def in_float32(model: nn.Module, name: str = ADAPTER) -> None:
    """The adapter's weights in float32, whatever the model's: in bfloat16 most of their small steps would be lost."""
    for weight in adapter_weights(model, name):
        weight.data = weight.data.float()


def add_follower(model: PreTrainedModel) -> None:
    """Add a second adapter, equal to the first and never trained, for a reference that follows the policy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, that there is an adapter already
        _add(model, copy.deepcopy(model.peft_config[ADAPTER]), FOLLOWER, seed=0)
    model.set_adapter(ADAPTER)
    with torch.no_grad():
        for follower, policy in zip(adapter_weights(model, FOLLOWER), adapter_weights(model, ADAPTER), strict=True):
            follower.copy_(policy)


@contextmanager
def under_adapter(model: PreTrainedModel, name: str | None) -> Iterator[None]:
    """Run `model` under another adapter than its own, or under none."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    # peft's own functions for this also change which weights have a gradient, and sharded ones keep their first answer.
    layers: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = name is None
        layer._active_adapter = [name or ADAPTER]
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
            layer._active_adapter = [ADAPTER]


class ResumesAdapter(Trainer):
    """A Trainer that also finds an adapter in a checkpoint: transformers saves it and looks for a full model."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.model is None or not has_adapter(self.model) or is_sharded(self.model):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        from peft import set_peft_model_state_dict

        weights = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        weights = {name.removeprefix("base_model.model."): weight for name, weight in weights.items()}
        set_peft_model_state_dict(self.model, weights, ADAPTER)
