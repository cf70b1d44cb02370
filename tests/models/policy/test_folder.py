"""A policy is loaded from its own safetensors, all of them, or not at all; where an adapter is merged for a program."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.models.policy.folder import load_policy, merged_policy, save_policy
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.training.loop.adapters import start_from
from epsilon_dpo.training.loop.params import LoRA


def test_an_absent_weight_is_not_drawn_at_random(sft_folder):
    folder = sft_folder()
    weights = load_file(folder / "model.safetensors")
    load_policy(folder)
    name = "model.layers.1.mlp.up_proj.weight"
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"The weights in .*sft lack {name} \(1 such\); `dvc repro` makes them again"):
        load_policy(folder)


def test_no_other_file_takes_the_place_of_the_weights(sft_folder):
    folder = sft_folder()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"sft holds no complete policy \(.*model.safetensors.*\); `dvc repro` makes it"
    ):
        load_policy(folder)


def test_an_adapter_is_merged_in_the_executions_own_folder(sft_folder, tmp_path):
    """Where a killed execution's copy is removed with the rest; of a full model no copy is made."""
    folder, adapter, scratch = sft_folder(), tmp_path / "adapter", tmp_path / "scratch" / "sample-run"
    lora = LoRA(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=["q_proj"], quantise=None)
    save_policy(start_from(folder, lora, seed=0), load_tokenizer(folder), adapter)
    with merged_policy(adapter, scratch) as merged:
        assert merged.parent == scratch
        assert (merged / "model.safetensors").is_file() and not (merged / "adapter_config.json").exists()
    assert scratch.is_dir() and not merged.exists()
    with merged_policy(folder, scratch) as merged:
        assert merged == folder
