"""Training a small PairRM on preference pairs: -log sigmoid(f(chosen, rejected)), the order of each pair drawn once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import softplus
from transformers import Trainer, TrainingArguments

from epsilon_dpo.judging.judges.layout import Layout, Pair
from epsilon_dpo.judging.judges.pairrm import PairRM
from epsilon_dpo.judging.making.params import TrainedJudge
from epsilon_dpo.judging.making.small_pairrm import small_config, small_tokenizer
from epsilon_dpo.pipeline.observability.progress import show_one_bar
from epsilon_dpo.training.loop.arguments import training_arguments
from epsilon_dpo.training.loop.checkpoints import SealedCheckpoints, last_sealed_checkpoint
from epsilon_dpo.training.loop.metrics_jsonl import MetricStream
from epsilon_dpo.training.loop.params import Accelerated, Training

Track = Callable[[dict[str, float], int], None]


def train(
    pairs: list[Pair], params: TrainedJudge, seed: int, scratch: Path, metrics: Path, track: Track
) -> tuple[PairRM, Layout]:
    """A PairRM from random weights, and its token layout.

    Args:
        pairs: `a` is the chosen answer.
        params: sizes and hyperparameters.
        seed: RNG seed of the weights, the pairs' order in each epoch and the order within a pair.
        scratch: checkpoints go here every `save_steps`; the last one found here is resumed.
        metrics: the file to which a row per logging step is written.
        track: function of the same metrics and the optimizer step.
    """
    tokenizer = small_tokenizer((text for pair in pairs for text in pair), params.vocab_size)
    layout = Layout(tokenizer, params.source_max_length, params.candidate_max_length)
    torch.manual_seed(seed)
    model = PairRM(small_config(params, tokenizer), layout.marker_ids)
    trainer = _PairTrainer(
        model=model,
        args=TrainingArguments(
            **training_arguments(_hyperparameters(params), seed, scratch), remove_unused_columns=False
        ),
        train_dataset=_examples(pairs, layout, seed),
        data_collator=_Collator(layout),
        callbacks=[SealedCheckpoints(), MetricStream(metrics, track)],
    )
    show_one_bar(trainer)
    trainer.train(resume_from_checkpoint=last_sealed_checkpoint(scratch))
    return model.eval(), layout


def _hyperparameters(params: TrainedJudge) -> Accelerated:
    """The training part of `params`; a judge this small has no use for mixed precision or recomputation."""
    training = params.model_dump(include=set(Training.model_fields))
    return Accelerated(**training, bf16=False, gradient_checkpointing=False)


def _examples(pairs: list[Pair], layout: Layout, seed: int) -> list[dict[str, Any]]:
    """One order of each pair, and +1 where the chosen answer comes first, else -1.

    Drawn per pair and not per epoch: a resumed training then sees what the uninterrupted one would have seen.
    """
    chosen_first = torch.randint(2, (len(pairs),), generator=torch.Generator().manual_seed(seed)).bool().tolist()
    examples = []
    for encoded, first in zip(layout.encode_all(pairs), chosen_first, strict=True):
        examples.append({"input_ids": encoded.ab if first else encoded.ba, "sign": 1.0 if first else -1.0})
    return examples


@dataclass
class _Collator:
    layout: Layout

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.layout.pad([example["input_ids"] for example in examples])
        return {**batch, "sign": torch.tensor([example["sign"] for example in examples])}


class _PairTrainer(Trainer):
    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, *_: Any, **__: Any) -> Any:
        """The batch's mean of -log sigmoid(sign * f); `sign` [pairs] is +1 where the first candidate was chosen."""
        f = model(inputs["input_ids"], inputs["attention_mask"])
        loss = softplus(-inputs["sign"] * f).mean()
        return (loss, {"f": f}) if return_outputs else loss
