"""A policy is loaded from its own safetensors, all of them, or not at all."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from epsilon_dpo.models.policy.folder import load_policy
from epsilon_dpo.pipeline.observability.errors import UserError


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
