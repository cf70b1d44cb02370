"""Entries of runs and small trainings that the tests of this folder share."""

import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.training.alignment.params import Align
from epsilon_dpo.training.loop.checkpoints import SealedCheckpoints

DPO = {"method": "dpo", "beta": 0.3}
FORWARD = {"method": "dpo", "beta": 0.3, "smoothing": "forward", "flip_by": "annotator"}
EPSILON_DPO = {"method": "epsilon_dpo", "beta": 0.3, "epsilon": 0.05}
SOFT = {"method": "tr_dpo", "beta": 0.3, "update": "soft", "alpha": 0.6, "sync_steps": 3}
HARD = {"method": "tr_dpo", "beta": 0.3, "update": "hard", "sync_steps": 3}
BETA_DPO = {"method": "beta_dpo", "beta": 0.3, "alpha": 0.6, "rho": 0.25, "momentum": 0.9}
ALPHA_DPO = {"method": "alpha_dpo", "beta": 2.5, "gamma": 0.3, "alpha": 0.1, "momentum": 0.5}
GAMMA_SIMPO = {"method": "gamma_po", "form": "simpo", "beta": 2.5, "gamma": 1.0, "tau": 0.5}
GAMMA_DPO = {"method": "gamma_po", "form": "dpo", "beta": 0.3, "gamma": 1.0, "tau": 0.2, "pool": "queue"}
AMAPO = {"method": "amapo", "beta": 2.0}
KTO = {"method": "kto", "beta": 0.3}
WPO = {"method": "wpo", "beta": 0.3, "weights": "aligned"}
TDPO = {"method": "tdpo", "beta": 0.3, "version": 2, "alpha": 0.5}
MADPO = {"method": "madpo", "beta": 0.3, "tau": 2.0}
# Of the block `lora`: an adapter on every projection.
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear", "quantise": None}
RRHF = {"method": "rrhf", "lam": 0.5, "sft_reduction": "token_mean"}

# With these the state moves within the few steps of a test, also where bfloat16 hides small perturbations.
IN_TWELVE_STEPS = {"sync_steps": 3, "epsilon": 0.3}
ROOT = Path(__file__).resolve().parent.parent.parent


def every_run():
    """Of the two files, by name: a new method is in here as soon as it has a line in params.yaml. Of equal entries the
    first alone."""
    found = {}
    for file in ("presets/all-methods.yaml", "params.yaml"):
        for name, entry in read_yaml(ROOT / file)["runs"].items():
            entry |= {key: value for key, value in IN_TWELVE_STEPS.items() if key in entry}
            if entry not in found.values():
                found[name] = entry
    return found


RUNS = every_run()


def config(**changes):
    """22 pairs: 11 micro-batches of 2, so 6 optimizer steps an epoch of which the last has one micro-batch only."""
    chosen = {
        "learning_rate": 1e-3,
        "num_train_epochs": 2.0,
        "max_steps": None,
        "batch_size": 4,
        "micro_batch_size": 2,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "adam_beta2": 0.999,
        "bf16": False,
        "gradient_checkpointing": False,
        "lora": None,
        "logps_token_chunk": 16,
        "share_prompt": True,
    }
    return Align(**{**chosen, **changes})


def scores_of(pairs):
    """Rows of out/margins: margins from -3 to 3 nats."""
    return [
        {"id": pair["id"], "chosen_score": row % 7 / 2.0, "rejected_score": row % 5 * 0.75}
        for row, pair in enumerate(pairs)
    ]


def with_flip_rates(pairs):
    """Rows of out/pairs whose labels are noisy."""
    return [{**pair, "flip_rate": row % 4 / 10.0} for row, pair in enumerate(pairs)]


def content(folder):
    """Every byte of a result."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


STATE = ("eps/beta_next", "eps/lowered", "beta_dpo/kept_share", "tr_dpo/syncs")


def without(row, tokens_seen):
    return row if tokens_seen else {name: x for name, x in row.items() if "num_input_tokens_seen" not in name}


def assert_same_training(one, other, tokens_seen=True):
    """Decisions, and betas made of them, exactly; what is made of log-probs up to rounding.

    A split changes the padding and so the order of float32 sums inside the model, and ten steps magnify that.
    """
    rows, others = (read_jsonl(folder / "metrics.jsonl") for folder in (one, other))
    for row, same in zip(rows, others, strict=True):
        assert [row.get(name) for name in STATE] == [same.get(name) for name in STATE]
        assert without(row, tokens_seen) == pytest.approx(without(same, tokens_seen), rel=1e-4, abs=1e-5)
    # A weight whose gradient is nearly zero is where AdamW magnifies rounding.
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=1e-5)
    metrics = [without(read_json(folder / "metrics.json"), tokens_seen) for folder in (one, other)]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-4, abs=1e-5)


def sealed(folder, step, files):
    """A checkpoint as the callback seals it."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    for name, text in files.items():
        (checkpoint / name).write_text(text)
    state = types.SimpleNamespace(is_world_process_zero=True, global_step=step)
    SealedCheckpoints().on_save(types.SimpleNamespace(output_dir=str(folder)), state, None)
    return checkpoint
