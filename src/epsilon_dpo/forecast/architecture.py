"""A model from its config alone: what it is, and how many parameters of which kind it has."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D

from epsilon_dpo.models.base.embedded import gemma2_config
from epsilon_dpo.models.base.params import Base, EmbeddedModel
from epsilon_dpo.pipeline.hub.download import cached_file
from epsilon_dpo.pipeline.observability.errors import UserError, first_line
from epsilon_dpo.training.loop.adapters import expert_weights


@dataclass(frozen=True)
class Sizes:
    """Of a causal language model; numbers of parameters count what is shared once.

    Attributes:
        parameters: all of them.
        projections: those of linear layers but the output's: what a token is multiplied with.
        vocabulary, hidden: sides of the output projection.
        layers: that a token passes.
        attention, keys: width of all heads of queries, and of those of keys, which are as wide as those of values; the
            mean over layers, some of which may have none.
        largest_layer: parameters of the largest decoder layer, which FSDP gathers at once.
        outside_layers: parameters that belong to no layer: embeddings, output projection, last norm.
        largest_projection: parameters of one.
        eager: whether attention is transformers' own, whose weights the alignment computes again.
    """

    parameters: int
    projections: int
    vocabulary: int
    hidden: int
    layers: int
    attention: float
    keys: float
    largest_layer: int
    outside_layers: int
    largest_projection: int
    eager: bool


def config_of(base: Base, file: Path | None = None, where: str = "base") -> PreTrainedConfig:
    """The config of the model that block `base` describes.

    Args:
        file: a config.json in the place of the model's own.
        where: the block's name in params.yaml.

    Raises:
        UserError: `file` or the model's own is not at hand (nothing is fetched from the Hub), or transformers does not
            know it.
    """
    if file is not None:
        if not file.exists():
            raise UserError(f"{file} does not exist; --model-config takes the config.json of a model.")
        return _read(file)
    if isinstance(base, EmbeddedModel):
        return gemma2_config(base, base.vocab_size)
    return config_at(base.path, base.revision, where)


def config_at(path: str, revision: str | None, where: str) -> PreTrainedConfig:
    """Of a local folder or of the Hub's cache; `where` is the block of params.yaml that names it.

    Raises:
        UserError: as config_of.
    """
    local = Path(path) / "config.json"
    cached = cached_file(path, "config.json", revision) if revision and not local.is_file() else None
    if not (found := cached or local).is_file():
        remedy = "give its config.json with --model-config FILE" if where == "base" else "download it first"
        raise UserError(
            f"The config of {where}.path = {path} is not at hand, neither as a folder nor in the Hub's cache; {remedy}."
        )
    return _read(found)


def _read(file: Path) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(file, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} is no config of a model that transformers knows: {first_line(error)}.") from None
    return config.get_text_config()


def model_of(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Without memory if called inside live.without_memory.

    Raises:
        UserError: it is no causal language model, one without attention, or a mixture of experts.
    """
    if getattr(config, "num_attention_heads", None) is None:
        raise UserError(
            f"{type(config).__name__} names no attention heads: a model without attention (Mamba) is not forecast."
        )
    try:
        with no_init_weights():
            own = deepcopy(config)  # a training writes its kind of attention into it
            model: PreTrainedModel = AutoModelForCausalLM.from_config(own, dtype=dtype, trust_remote_code=False)
    except ValueError as error:
        raise UserError(f"{type(config).__name__} is no causal language model: {first_line(error)}.") from None
    model.tie_weights()  # which is left out together with drawing them
    if expert_weights(model):
        raise UserError(
            f"{type(config).__name__} is a mixture of experts, which is not forecast: which experts compute "
            "depends on the token."
        )
    return model


def sizes_of(model: PreTrainedModel) -> Sizes:
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D) and module is not head]
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    blocks = next(modules for modules in lists if len(modules) == config.num_hidden_layers)
    layers = [_count(layer) for layer in blocks]
    attention, keys = _widths(config, blocks)
    return Sizes(
        parameters=_count(model),
        projections=sum(module.weight.numel() for module in linear),
        vocabulary=head.out_features,
        hidden=head.in_features,
        layers=len(layers),
        attention=attention,
        keys=keys,
        largest_layer=max(layers),
        outside_layers=_count(model) - sum(layers),
        largest_projection=max(module.weight.numel() for module in linear),
        eager=config._attn_implementation == "eager",
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _widths(config: PreTrainedConfig, layers: nn.ModuleList) -> tuple[float, float]:
    """Of the heads of queries and of keys, from the modules: layers may differ in them (Gemma 4), take keys from others
    (Gemma 4) or have no attention (LFM2, Qwen 3.5)."""
    found = [module for layer in layers for module in layer.modules() if isinstance(_head_dim(module), int)]
    if not found:
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return float(config.num_attention_heads * width), float(_key_heads(config) * width)
    attention = sum(config.num_attention_heads * _head_dim(module) for module in found)
    projections = [getattr(module, "k_proj", None) for module in found]
    own = [projection.out_features for projection in projections if isinstance(projection, nn.Linear)]
    if own:
        return attention / len(layers), sum(own) / len(layers)
    heads = [getattr(module, "num_kv_heads", None) or _key_heads(config) for module in found]  # Falcon's have their own
    keys = sum(count * _head_dim(module) for count, module in zip(heads, found, strict=True))
    return attention / len(layers), keys / len(layers)


def _head_dim(module: nn.Module) -> Any:
    return getattr(module, "head_dim", None)


def _key_heads(config: PreTrainedConfig) -> int:
    found: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return found
