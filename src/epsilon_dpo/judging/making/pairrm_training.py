"""Training a small PairRM on preference pairs: -log sigmoid(f(better, worse)), on the pairs of training_examples.py."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import softplus
from transformers import TrainingArguments

from epsilon_dpo.judging.judges.interface import Question
from epsilon_dpo.judging.judges.layout import Layout
from epsilon_dpo.judging.judges.pairrm import PairRM
from epsilon_dpo.judging.judges.source_text import pair_text
from epsilon_dpo.judging.making.params import TrainedJudge
from epsilon_dpo.judging.making.small_pairrm import look_for_equal_tokens, small_config, small_tokenizer
from epsilon_dpo.judging.making.training_examples import draw_examples
from epsilon_dpo.pipeline.observability.progress import show_one_bar
from epsilon_dpo.training.loop.arguments import training_arguments
from epsilon_dpo.training.loop.checkpoints import SealedCheckpoints, last_sealed_checkpoint
from epsilon_dpo.training.loop.metrics_jsonl import MetricStream
from epsilon_dpo.training.loop.params import Accelerated, Training
from epsilon_dpo.training.loop.whole_steps import WholeSteps

Track = Callable[[dict[str, float], int], None]


def train(
    pairs: list[Question], params: TrainedJudge, seed: int, scratch: Path, metrics: Path, track: Track, save_steps: int
) -> tuple[PairRM, Layout]:
    """A PairRM from random weights, and its token layout.

    Args:
        pairs: `a` is the chosen answer.
        params: sizes and hyperparameters.
        seed: RNG seed of the weights, and of which pairs are shown in which order.
        scratch: checkpoints go here every `save_steps` optimizer steps; the last one found here is resumed.
        metrics: the file to which a row per optimizer step is written.
        track: function of the same metrics and the optimizer step.

    Raises:
        UserError: mismatched pairs are wanted, and all pairs have one prompt, or one chosen answer.
    """
    texts = (text for pair in pairs for text in pair_text(*pair))
    tokenizer = small_tokenizer(texts, params.vocab_size)
    layout = Layout(tokenizer, params.source_max_length, params.candidate_max_length)
    torch.manual_seed(seed)
    model = look_for_equal_tokens(PairRM(small_config(params, tokenizer), layout.marker_ids))
    arguments = training_arguments(_hyperparameters(params), seed, scratch, save_steps)
    # The examples of all epochs are one sequence, in the order that was drawn.
    arguments |= {"num_train_epochs": 1.0, "max_steps": -1, "train_sampling_strategy": "sequential"}
    trainer = _PairTrainer(
        model=model,
        args=TrainingArguments(**arguments, remove_unused_columns=False),
        train_dataset=_rows(pairs, layout, params, seed),
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


def _rows(pairs: list[Question], layout: Layout, params: TrainedJudge, seed: int) -> list[dict[str, Any]]:
    """The training's examples as token ids, and +1 where the better answer comes first, else -1."""
    steps = params.max_steps or math.ceil(params.num_train_epochs * len(pairs) / params.batch_size)
    examples = draw_examples(pairs, steps * params.batch_size, params.mismatched_first, params.mismatched_share, seed)
    encoded = layout.encode_all([pair_text(*example.question(pairs)) for example in examples])
    return [
        {"input_ids": row.ab, "sign": 1.0} if example.better_first else {"input_ids": row.ba, "sign": -1.0}
        for row, example in zip(encoded, examples, strict=True)
    ]


@dataclass
class _Collator:
    layout: Layout

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.layout.pad([example["input_ids"] for example in examples])
        return {**batch, "sign": torch.tensor([example["sign"] for example in examples])}


class _PairTrainer(WholeSteps):
    def row_length(self, row: dict[str, Any]) -> int:
        return len(row["input_ids"])

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """The part of these pairs in the step's mean of -log sigmoid(sign * f); `sign` [B] is +1 where the first
        candidate is better."""
        f = model(inputs["input_ids"], inputs["attention_mask"])
        loss = softplus(-inputs["sign"] * f).mean()
        return loss * (self.rows_now * self.accelerator.num_processes / num_items_in_batch)
