"""`online`: stage align's call for an online run on a small Gemma-2, random prompts and a made-up reward."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from online_runs import worth
from runs import config

from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.stage.files import write_jsonl
from epsilon_dpo.sampling.decoding.draws import Draw
from epsilon_dpo.training.online.online_alignment import align_online


@pytest.fixture
def online(
    sft_folder: Callable[..., Path], token_pairs: Callable[[int], list[dict[str, Any]]], tmp_path: Path
) -> Callable[..., Path]:
    """Train with a run's entry and changed hyperparameters into a folder of the given name; returns the folder."""
    made: dict[str, Path] = {}

    def call(
        name: str,
        entry: dict[str, Any],
        track: Callable[[dict[str, float], int], None] = lambda metrics, step: None,
        score: Callable[..., list[float]] = worth,
        dtype: torch.dtype = torch.float32,
        save_steps: int = 100,
        drawn_at_once: int = 6,
        seed: int = 5,
        **changes: Any,
    ) -> Path:
        if not made:
            made["model"], made["pairs"] = sft_folder(dtype), tmp_path / "pairs"
            made["pairs"].mkdir()
            rows = {"train": token_pairs(9), "eval": token_pairs(14)[9:]}
            for split, pairs in rows.items():
                write_jsonl(made["pairs"] / f"{split}.jsonl", pairs)
                asked = [
                    {"id": pair["id"], "prompt_ids": pair["prompt_ids"], "prompt": [{"role": "user", "content": "?"}]}
                    for pair in pairs
                ]
                write_jsonl(made["pairs"] / f"{split}_prompts.jsonl", asked)
        out = tmp_path / name
        out.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        method = method_of(name, entry)
        settings = {"batch_size": 32, "micro_batch_size": 4, "learning_rate": 1e-2} | changes
        scratch = tmp_path / f"{name}-scratch"
        return align_run(method, config(**settings), made, score, out, scratch, track, save_steps, drawn_at_once, seed)

    return call


def align_run(method, settings, made, score, out, scratch, track, save_steps, drawn_at_once, seed):  # type: ignore[no-untyped-def]
    align_online(
        method,
        settings,
        seed,
        made["model"],
        made["pairs"],
        {split: made["pairs"] / f"{split}_prompts.jsonl" for split in ("train", "eval")},
        Draw(load_tokenizer(made["model"]), method.config.max_new_tokens, drawn_at_once),
        score,
        out,
        scratch,
        track,
        save_steps=save_steps,
    )
    return out
