"""A policy is loaded from its own safetensors, all of them, or not at all; where an adapter is merged for a program."""

import itertools

import pytest
import torch
from safetensors.torch import load_file, save_file

from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.models.policy.folder import load_policy, merged_policy, policy_config, save_policy, write_merged
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.training.loop.adapters import start_from
from epsilon_dpo.training.loop.params import LoRA

LORA = LoRA(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=["q_proj"], quantise=None)


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
    save_policy(start_from(folder, LORA, seed=0), load_tokenizer(folder), adapter)
    with merged_policy(adapter, scratch) as merged:
        assert merged.parent == scratch
        assert (merged / "model.safetensors").is_file() and not (merged / "adapter_config.json").exists()
    assert scratch.is_dir() and not merged.exists()
    with merged_policy(folder, scratch) as merged:
        assert merged == folder


def test_others_may_read_the_weights_as_what_is_beside_them(sft_folder, tmp_path):
    """safetensors makes its files for their owner alone: nobody else who works on a project could sample a policy."""
    folder, adapter = sft_folder(), tmp_path / "adapter"
    save_policy(load_policy(folder), load_tokenizer(folder), tmp_path / "full")
    save_policy(start_from(folder, LORA, seed=0), load_tokenizer(folder), adapter)
    write_merged(adapter, tmp_path / "merged")
    for file in ("full/model.safetensors", "adapter/adapter_model.safetensors", "merged/model.safetensors"):
        assert (tmp_path / file).stat().st_mode & 0o777 == 0o644, file


def test_an_adapter_on_an_adapter_has_the_configuration_of_the_model_below(sft_folder, tmp_path):
    """LoRA in sft and in align: how many positions there are for an answer is read without weights."""
    folders = [sft_folder(), tmp_path / "sft-adapter", tmp_path / "aligned"]
    for below, folder in itertools.pairwise(folders):
        save_policy(start_from(below, LORA, seed=0), load_tokenizer(below), folder)
    assert [policy_config(folder).max_position_embeddings for folder in folders] == [64, 64, 64]
