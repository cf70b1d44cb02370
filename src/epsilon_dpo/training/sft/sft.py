"""Stage `sft` in one call: TRL's SFTTrainer on the chosen answers, as the very token ids that the alignment scores.

The rows are tokenised here and not by TRL, so that template, stop token and truncation are those of stage `pairs`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from epsilon_dpo.data.tokenizer.folder import load_tokenizer
from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.data.tokens.tokenisation import tokenise_chosen
from epsilon_dpo.pipeline.observability.progress import show_one_bar
from epsilon_dpo.pipeline.stage.files import read_jsonl
from epsilon_dpo.training.loop.adapters import ResumesAdapter, in_float32, start_from
from epsilon_dpo.training.loop.arguments import training_arguments
from epsilon_dpo.training.loop.checkpoints import SealedCheckpoints, last_sealed_checkpoint
from epsilon_dpo.training.loop.metrics_jsonl import MetricStream
from epsilon_dpo.training.loop.result import write_result
from epsilon_dpo.training.loop.sharding import shard
from epsilon_dpo.training.loop.whole_steps import WholeSteps
from epsilon_dpo.training.sft.params import SFT
from epsilon_dpo.training.sft.positions import require_positions


def fine_tune(
    config: SFT,
    tokens: Tokens,
    seed: int,
    base: Path,
    validated: Path,
    out: Path,
    scratch: Path,
    track: Callable[[dict[str, float], int], None],
    *,
    save_steps: int,
) -> dict[str, float]:
    """Train `base`/model on the chosen answers of `validated`/train.jsonl, evaluate on those of `validated`/eval.jsonl.

    Writes model/ (weights or adapter, tokenizer, generation settings that stop at its eos token), metrics.jsonl and
    metrics.json to `out`, on rank 0 alone. A killed run continues from its last sealed checkpoint in `scratch`.

    Args:
        track: function of the metrics and the optimizer step of each row of metrics.jsonl.
        save_steps: optimizer steps between two checkpoints.

    Returns:
        the content of metrics.json: the last training row as train_*, and eval_*.

    Raises:
        UserError: the model has fewer positions than `tokens.max_length`.
    """
    tokenizer = load_tokenizer(base / "tokenizer")
    model = start_from(base / "model", config.lora, seed)
    require_positions(model.config.get_text_config(), tokens)
    settings = SFTConfig(
        **training_arguments(config, seed, scratch, save_steps),
        completion_only_loss=config.completion_only_loss,
        max_length=None,  # tokenise_chosen has cut
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = _Trainer(
        model=model,
        args=settings,
        train_dataset=labelled(read_jsonl(validated / "train.jsonl"), tokenizer, tokens, config.completion_only_loss),
        eval_dataset=labelled(read_jsonl(validated / "eval.jsonl"), tokenizer, tokens, config.completion_only_loss),
        processing_class=tokenizer,
        callbacks=[SealedCheckpoints(), MetricStream(scratch / "metrics.jsonl", track)],
    )
    shard(model, trainer.accelerator)
    in_float32(model)  # TRL makes an adapter on quantised weights bfloat16
    show_one_bar(trainer)
    trainer.train(resume_from_checkpoint=last_sealed_checkpoint(scratch))
    return write_result(trainer, tokenizer, out, track, end_state={})


class _Trainer(WholeSteps, ResumesAdapter, SFTTrainer):
    """TRL's loss is a sum over the tokens of a micro-batch, divided by those of the step."""

    def row_length(self, row: dict[str, list[int]]) -> int:
        return len(row["input_ids"])

    def micro_batch(self, rows: list[Any], counts: bool) -> dict[str, Any]:
        if not counts:
            rows = [row | {"labels": [-100] * len(row["labels"])} for row in rows]
        batch: dict[str, Any] = self.data_collator(rows)
        return batch

    def items(self, rows: Sequence[dict[str, list[int]]]) -> int:
        """Tokens that are predicted: a row's first is not."""
        return sum(label != -100 for row in rows for label in row["labels"][1:])


def labelled(
    pairs: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, tokens: Tokens, completion_only: bool
) -> Dataset:
    """Prompt and chosen answer of each pair as `input_ids`; `labels` are the same ids, -100 where no loss is wanted."""
    rows = []
    for pair in pairs:
        prompt, answer = tokenise_chosen(tokenizer, pair, tokens)
        hidden = [-100] * len(prompt) if completion_only else prompt
        rows.append({"input_ids": prompt + answer, "labels": hidden + answer})
    return Dataset.from_list(rows)
