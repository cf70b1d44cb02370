"""The hyperparameters of a training block as arguments of transformers.TrainingArguments (and of TRL's SFTConfig)."""

import os
from pathlib import Path
from typing import Any

import torch

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.variables import ENGINES
from epsilon_dpo.training.loop.params import Accelerated
from epsilon_dpo.training.loop.sharding import asked_for


def training_arguments(config: Accelerated, seed: int, folder: Path, save_steps: int) -> dict[str, Any]:
    """Every argument that this project sets; checkpoints go to `folder`, every `save_steps` optimizer steps.

    Loss, data order and result depend on the hyperparameters, the seed and the device only: nothing is reported by
    transformers itself, evaluation happens once at the end, and a loss that is not finite shows (it is not filtered).

    Raises:
        UserError: accelerate is configured to use an engine that no launcher of ours has, such as DeepSpeed. The losses
            would be right, but the result silently wrong: transformers ignores a method's state when it resumes under
            DeepSpeed, and under ZeRO-3 the process that saves the model has none of its weights.
    """
    for variable, engine in ENGINES.items():
        used = os.environ.get(variable, "false").lower() in ("y", "yes", "t", "true", "on", "1")
        if used and not (engine == "FSDP" and asked_for()):
            raise UserError(
                f"accelerate is configured to use {engine} ({variable}), under which this stage would save a model "
                f"without its weights or forget a method's state when it resumes; start the stage without {engine}. "
                "Several processes are started by EPSILON_DPO_LAUNCHER (docs/scale.md)."
            )
    return {
        "output_dir": str(folder),
        "seed": seed,
        "data_seed": seed,
        "learning_rate": config.learning_rate,
        "num_train_epochs": config.num_train_epochs,
        "max_steps": -1 if config.max_steps is None else config.max_steps,
        "per_device_train_batch_size": config.batch_size,  # see whole_steps.py: accumulation is inside a step there
        "per_device_eval_batch_size": config.micro_batch_size,
        "gradient_accumulation_steps": 1,
        "lr_scheduler_type": config.lr_scheduler_type,
        "warmup_steps": config.warmup_ratio,  # a number below 1 is a share of all steps in transformers 5
        "optim": "adamw_torch_fused",  # no temporaries as large as the embeddings
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "adam_beta2": config.adam_beta2,
        "bf16": config.bf16,
        # transformers' new name; the old one in params.yaml is the one that people look for
        "activation_checkpointing": config.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "logging_steps": 1,  # it decides the bytes of metrics.jsonl: as a param it would be a reason to train again
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": save_steps,
        "save_total_limit": 2,  # while one is being written, the one before must stay
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": False,
        "ddp_find_unused_parameters": False,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def require_a_row_each(batch_size: int) -> None:
    """Refuse a launcher of which a process would have nothing to do in an optimizer step of `batch_size` rows.

    Raises:
        UserError: it has more processes than that.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if batch_size < processes:
        raise UserError(
            f"batch_size is {batch_size}, and each of the launcher's {processes} processes needs a row of every "
            f"optimizer step: start at most {batch_size} processes, or raise it to {processes} in params.yaml."
        )
