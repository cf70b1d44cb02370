"""`run`: stage align's call on a small Gemma-2 and random pairs."""

import pytest
import torch
from runs import config, scores_of, with_flip_rates

from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.stage.files import write_jsonl
from epsilon_dpo.training.alignment.alignment import align


@pytest.fixture
def run(sft_folder, token_pairs, tmp_path):
    """Align with a run's entry and changed hyperparameters into a folder of the given name; returns the folder.

    Model and pairs are made by the first call of a test, `count` pairs, unless they are given.
    """
    made = {}

    def call(
        name,
        entry,
        track=lambda metrics, step: None,
        dtype=torch.float32,
        count=22,
        pairs=None,
        model=None,
        save_steps=100,
        **changes,
    ):
        if not made:
            made["model"], made["pairs"] = model or sft_folder(dtype), tmp_path / "pairs"
            made["pairs"].mkdir()
            rows = {"train": pairs or token_pairs(count), "eval": token_pairs(count + 5)[count:]}
            (tmp_path / "margins").mkdir()
            for split, of_split in rows.items():
                write_jsonl(made["pairs"] / f"{split}.jsonl", with_flip_rates(of_split))
                write_jsonl(tmp_path / "margins" / f"{split}.jsonl", reversed(scores_of(of_split)))
        out = tmp_path / name
        out.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        method, settings, scratch = method_of(name, entry), config(**changes), tmp_path / f"{name}-scratch"
        data = (made["model"], made["pairs"], out, scratch, track, tmp_path / "margins")
        align(method, settings, 5, *data, save_steps=save_steps)
        return out

    return call
