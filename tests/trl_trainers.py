"""TRL's own trainers on our token pairs: their tokenisation, collators, losses, gradients and logged metrics."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import datasets
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

datasets.disable_progress_bars()

TRAINERS: dict[type[Trainer], Any] = {
    DPOTrainer: DPOConfig,
    KTOTrainer: KTOConfig,
    CPOTrainer: CPOConfig,
    ORPOTrainer: ORPOConfig,
}


@dataclass(frozen=True)
class Step:
    """What one backward pass leaves behind."""

    loss: float
    gradients: dict[str, Tensor]  # of every parameter, by name
    metrics: dict[str, float]


def trainer_of(
    kind: type[Trainer],
    policy: PreTrainedModel,
    reference: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[dict[str, Any]],
    folder: Any,
    **config: Any,
) -> Any:
    """A trainer whose dataset is `pairs`, as text that TRL tokenises again; `config` goes to its configuration.

    TRL's defaults that would compute something else are turned off: bfloat16, gradient checkpointing, truncation.
    """
    settings = {
        "output_dir": str(folder),
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "max_length": 512,
        "per_device_train_batch_size": 2 * len(pairs),  # KTO rotates answers within as many examples
        "disable_tqdm": True,
    }
    rows = [
        {
            "prompt": tokenizer.decode(pair["prompt_ids"]),
            "chosen": " " + tokenizer.decode(pair["chosen_ids"]),
            "rejected": " " + tokenizer.decode(pair["rejected_ids"]),
        }
        for pair in pairs
    ]
    models = {"model": policy} if reference is None else {"model": policy, "ref_model": reference}
    with patch.dict("os.environ", CI="1"):  # a TRL trainer reports its use to its authors, except in CI
        return kind(
            **models,
            args=TRAINERS[kind](**{**settings, **config}),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )


def batch_of(trainer: Any) -> dict[str, Tensor]:
    """All rows of the trainer's dataset in order, as its own collator puts them together."""
    batch: dict[str, Tensor] = trainer.data_collator(list(trainer.train_dataset))
    return batch


def our_form(trainer: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """`batch` with the keys of PairCollator. Only names differ: nothing is padded or put in order here."""
    if isinstance(trainer, (DPOTrainer, KTOTrainer)):
        return {name: batch[name] for name in ("input_ids", "attention_mask", "completion_mask")}
    whole = trainer.concatenated_inputs(batch, padding_value=trainer.processing_class.pad_token_id)
    return {
        "input_ids": whole["concatenated_input_ids"],
        "attention_mask": whole["concatenated_attention_mask"],
        "completion_mask": (whole["concatenated_labels"] != -100).long(),
    }


def step_of(trainer: Any, batch: dict[str, Tensor]) -> Step:
    """Loss, gradients and logged metrics of one batch, by the trainer's own `compute_loss`."""
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    logged = trainer._metrics if hasattr(trainer, "_metrics") else trainer._stored_metrics
    return Step(loss.item(), gradients(trainer.model), {name: value[-1] for name, value in logged["train"].items()})


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    """Of every parameter, by name; a parameter that the loss does not reach is an error."""
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad
    return found


@contextmanager
def float32_means_float64() -> Iterator[None]:
    """Inside, code that asks for float32 by name gets float64.

    TRL's fused head sums and differentiates in float32 whatever the model computes in, ORPO casts to it, and so do
    Gemma-2's norms and its softmax. So an equality up to the rounding of float32 is all that can be seen of them; with
    this it is one up to the rounding of float64, and every statement of theirs still runs.
    """
    double = torch.Tensor.double
    with patch.object(torch, "float32", torch.float64), patch.object(torch.Tensor, "float", double):
        yield
