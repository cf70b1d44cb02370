"""What a test of this folder lets the processes of a launcher do; see pipeline/launch/processes.py."""

from pathlib import Path
from typing import Any

import torch
from online_runs import worth

from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.launch.worker import Track
from epsilon_dpo.sampling.decoding.draws import Draw
from epsilon_dpo.training.alignment.params import Align
from epsilon_dpo.training.online.online_alignment import align_online


def online_trainings(arguments: dict[str, Any], track: Track) -> None:
    """Each of `runs` by name, [entry of a run, block align], one after the other; rank 0 alone writes."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    root = Path(arguments["root"])
    for name, (entry, settings) in arguments["runs"].items():
        method, out = method_of(name, entry), root / "processes" / name  # of all ranks, as the stage's is
        out.mkdir(parents=True, exist_ok=True)
        align_online(
            method,
            Align(**settings),
            5,
            root / "sft",
            root / "pairs",
            {split: root / "pairs" / f"{split}_prompts.jsonl" for split in ("train", "eval")},
            Draw(load_tokenizer(root / "sft"), method.config.max_new_tokens, 6),
            worth,
            out,
            root / f"{name}-in-two",
            track,
            save_steps=4,
        )
