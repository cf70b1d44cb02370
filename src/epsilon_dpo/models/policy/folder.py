"""A policy on disk, model/ of stages sft and align: a full model, or an adapter (LoRA) alone.

An adapter folder holds no weights of its base. Its adapter_config.json, as peft writes it, says where the base is
(`base_model_name_or_path`, another such folder) and which one is meant (`revision`, the sha256 of that folder). So the
sha256 of an adapter folder identifies the merged policy, and a base that has changed is refused.

Merged weights are float32, also on a bfloat16 base: bfloat16 values near 0.02 are 1.2e-4 apart, and what alignment
adds to most weights is less than half of that, so that merging in bfloat16 would give the base back.
"""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.pipeline.observability.errors import UserError, first_line
from epsilon_dpo.pipeline.stage.files import read_json, write_json
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.manifest import ADAPTER_CONFIG, is_adapter

WEIGHTS = "adapter_model.safetensors"  # peft's name
ADAPTER = "default"  # the one that is trained, as peft calls it


def load_policy(folder: Path, dtype: torch.dtype | Literal["auto"] = "auto", remember: bool = True) -> PreTrainedModel:
    """The policy in `folder`, as a plain model: an adapter is merged into its base, which may be an adapter itself.

    Args:
        dtype: type of a full model's weights, `auto` as stored; merged ones are float32.
        remember: as of fingerprint.digest, of an adapter's base.

    Raises:
        UserError: the adapter's base is absent or is not the one that the adapter was trained on; weights are absent;
            transformers does not know the model without code of its own.
    """
    if not is_adapter(folder):
        return _load_full(folder, dtype)
    from peft import PeftModel  # imported where an adapter is: it takes half a second

    base = load_policy(_base_of(folder, remember), torch.float32, remember)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's use of an old name in transformers
        model: PreTrainedModel = PeftModel.from_pretrained(base, str(folder)).merge_and_unload()
    model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def _load_full(folder: Path, dtype: torch.dtype | Literal["auto"]) -> PreTrainedModel:
    """transformers would read another file in the place of model.safetensors, and draw absent weights at random."""
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            trust_remote_code=False,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except ValueError as error:
        raise UserError(f"The model in {folder} cannot be loaded: {first_line(error)}.") from None
    except OSError as error:
        raise UserError(f"{folder} holds no complete policy ({first_line(error)}); `dvc repro` makes it.") from None
    model, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise UserError(
            f"The weights in {folder} lack {missing[0]} ({len(missing)} such); `dvc repro` makes them again."
        )
    full: PreTrainedModel = model
    text = full.config.get_text_config()
    if getattr(text, "output_router_logits", False):  # for a training's loss of balance; with a cache it fails
        text.output_router_logits = False
    return full


def policy_config(folder: Path) -> PreTrainedConfig:
    """The model's config, without its weights: an adapter's is its base's."""
    while is_adapter(folder):
        folder = _base_of(folder)
    found: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return found


@contextmanager
def merged_policy(folder: Path, scratch: Path | None = None) -> Iterator[Path]:
    """A folder with the merged policy, for a program that cannot merge: `folder`, or a copy that is removed afterwards.

    Args:
        scratch: an execution's own, where a killed one's copy is removed with the rest; None: the system's.
    """
    if not is_adapter(folder):
        yield folder
        return
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as merged:
        write_merged(folder, Path(merged))
        yield Path(merged)


def write_merged(folder: Path, to: Path, remember: bool = True) -> None:
    """Write the policy in `folder` to `to` as a full model; `remember` as of load_policy."""
    load_policy(folder, remember=remember).save_pretrained(to)
    _let_others_read(to)
    load_tokenizer(folder).save_pretrained(to)


def save_policy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write a model folder that can be sampled from: weights (of the adapter, if there is one), tokenizer, settings.

    They stop at the tokenizer's eos token and nowhere else (TRL would add it to others).

    Args:
        weights: by name, of a model whose own are spread over processes (training/loop/sharding.py).
    """
    config, settings = model.config, model.generation_config
    assert settings is not None
    used_cache, config.use_cache = config.use_cache, True  # training switches it off, sampling wants it
    settings.eos_token_id = tokenizer.eos_token_id
    if has_adapter(model):
        _save_adapter(model, folder, weights)
        settings.save_pretrained(folder)
    else:
        model.save_pretrained(folder, state_dict=weights)
    _let_others_read(folder)
    tokenizer.save_pretrained(folder)
    config.use_cache = used_cache


def _let_others_read(folder: Path) -> None:
    """Weights, too: safetensors makes their files private to the user. Somebody else's files, on a mounted share, are
    left as they are."""
    for file in folder.glob("*.safetensors"):
        with suppress(PermissionError):
            file.chmod(0o644)


def has_adapter(model: nn.Module) -> bool:
    """Whether an adapter was put into `model`."""
    return hasattr(model, "peft_config")


def _save_adapter(model: PreTrainedModel, folder: Path, weights: dict[str, Tensor] | None) -> None:
    """As peft does, but in the same bytes each time: there the order of the modules is that of a Python set."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    found = get_peft_model_state_dict(model, weights, adapter_name=ADAPTER, save_embedding_layers=False)
    adapter = {f"base_model.model.{name}": weight.cpu().contiguous() for name, weight in found.items()}
    save_file(adapter, folder / WEIGHTS, metadata={"format": "pt"})
    lora: Any = model.peft_config[ADAPTER]
    config = lora.to_dict()
    config |= {name: sorted(value) for name, value in config.items() if isinstance(value, set)}
    write_json(
        folder / ADAPTER_CONFIG, config | {"base_model_name_or_path": model.name_or_path, "inference_mode": True}
    )


def _base_of(folder: Path, remember: bool = True) -> Path:
    """The base of the adapter in `folder`, looked for from the adapter's folder upwards: stages run at the project's
    root, those of external/ below it."""
    config = read_json(folder / ADAPTER_CONFIG)
    name, sha256 = config["base_model_name_or_path"], config["revision"]
    found = next((parent / name for parent in folder.absolute().parents if (parent / name).is_dir()), None)
    if found is None:
        raise UserError(f"{folder} is an adapter on {name}, which does not exist; `dvc repro` makes it.")
    if digest(found, remember=remember) != sha256:
        raise UserError(
            f"{folder} is an adapter on {name} as it was (sha256 {sha256[:12]}...), and that has changed since; "
            "`dvc repro` trains it again."
        )
    return found
