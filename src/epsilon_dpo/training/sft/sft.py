"""Stage `sft` in one call: TRL's SFTTrainer on the chosen answers, as the very token ids that the alignment scores.

The rows are tokenised here and not by TRL, so that template, stop token and truncation are those of stage `pairs`.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTConfig, SFTTrainer

from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.data.tokens.positions import require_positions
from epsilon_dpo.data.tokens.tokenisation import tokenise_chosen
from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.pipeline.observability.progress import show_one_bar
from epsilon_dpo.pipeline.stage.files import JsonlFile
from epsilon_dpo.training.loop.adapters import ResumesAdapter, in_float32, start_from
from epsilon_dpo.training.loop.arguments import require_a_row_each, training_arguments
from epsilon_dpo.training.loop.checkpoints import SealedCheckpoints, last_sealed_checkpoint
from epsilon_dpo.training.loop.metrics_jsonl import MetricStream
from epsilon_dpo.training.loop.result import write_result
from epsilon_dpo.training.loop.sharding import shard
from epsilon_dpo.training.loop.whole_steps import WholeSteps
from epsilon_dpo.training.sft.params import SFT


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
        the content of metrics.json: the loss over the training as `train_loss`, `train_epoch`, and eval_*.

    Raises:
        UserError: the model has fewer positions than `tokens.max_length`, or a step fewer rows than processes.
    """
    require_a_row_each(config.batch_size)
    tokenizer = load_tokenizer(base / "tokenizer")
    model = start_from(base / "model", config.lora, seed)
    text = model.config.get_text_config()
    require_positions(text, "tokens.max_length", tokens.max_length)
    router_aux_loss_coef = getattr(text, "router_aux_loss_coef", None)  # of a mixture of experts
    settings = SFTConfig(
        **training_arguments(config, seed, scratch, save_steps),
        completion_only_loss=config.completion_only_loss,
        max_length=None,  # tokenise_chosen has cut
        router_aux_loss_coef=0.0,  # that loss depends on how a step is cut, and alignment has none
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    train, evaluation = (
        labelled(JsonlFile(validated / f"{split}.jsonl"), tokenizer, tokens, config.completion_only_loss)
        for split in ("train", "eval")
    )
    trainer = _Trainer(
        model=model,
        args=settings,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        callbacks=[SealedCheckpoints(), MetricStream(scratch / "metrics.jsonl", track)],
    )
    if router_aux_loss_coef is not None:  # TRL writes what it trains with into the model's config
        text.router_aux_loss_coef = router_aux_loss_coef
    shard(model, trainer.accelerator)
    in_float32(model)  # TRL makes an adapter on quantised weights bfloat16
    show_one_bar(trainer)
    trainer.train(resume_from_checkpoint=last_sealed_checkpoint(scratch))
    return write_result(trainer, tokenizer, out, track, end_state={})


class _Trainer(WholeSteps, ResumesAdapter, SFTTrainer):
    """TRL's loss is a sum over the tokens of a micro-batch, divided by those of the step. Its other metrics are means
    of means, which would depend on how a step is cut: here each is a mean over tokens, too."""

    _tokens: list[float]  # of the micro-batches since the last row, of all processes

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        count = self.accelerator.reduce(_predicted(inputs["labels"]).sum().double(), "sum")
        found = super().compute_loss(model, inputs, *args, **kwargs)
        self._tokens = [*getattr(self, "_tokens", []), count.item()]
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            for name in ("entropy", "mean_token_accuracy"):
                values = zip(self._metrics["train"][name], self._tokens, strict=True)
                self._metrics["train"][name] = [sum(value * count for value, count in values) / sum(self._tokens)]
            self._tokens = []
        super().log(logs, start_time)

    @torch.no_grad()
    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Means over the tokens of all evaluation rows, whichever process computes them."""
        rows, model = list(dataloader.dataset), self.model
        assert model is not None
        model.eval()
        self.callback_handler.eval_dataloader = dataloader
        names = ("loss", "entropy", "mean_token_accuracy")
        totals = torch.zeros(len(names) + 1, dtype=torch.float64, device=self.args.device)
        for places in self.shared_out(rows):
            batch = self._prepare_inputs(self.micro_batch([rows[place] for place in places or [0]], bool(places)))
            with self.accelerator.autocast():
                tokens = model(**batch, use_cache=False, fused_lm_head=True)
            sums = [x.double().sum() for x in (-tokens.log_probs, tokens.entropy, tokens.is_top1, tokens.label_mask)]
            totals += torch.stack(sums)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        *sums, count = self.accelerator.reduce(totals, "sum").tolist()
        means = {f"{metric_key_prefix}_{name}": total / count for name, total in zip(names, sums, strict=True)}
        return EvalLoopOutput((), None, means, num_samples=len(rows))  # type: ignore[arg-type]

    def row_length(self, row: dict[str, list[int]]) -> int:
        return len(row["input_ids"])

    def micro_batch(self, rows: list[Any], counts: bool) -> dict[str, Any]:
        if not counts:
            rows = [row | {"labels": [-100] * len(row["labels"])} for row in rows]
        return super().micro_batch(rows, counts)

    def items(self, rows: Sequence[dict[str, list[int]]]) -> int:
        return sum(int(_predicted(torch.tensor([row["labels"]])).sum()) for row in rows)


def _predicted(labels: Tensor) -> Tensor:
    """Where `labels` [R, T] has a token with a loss: a row's first is never predicted. [R, T-1]"""
    return labels[:, 1:] != -100


def labelled(
    pairs: Iterable[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, tokens: Tokens, completion_only: bool
) -> Dataset:
    """Prompt and chosen answer of each pair as `input_ids`; `labels` are the same ids, -100 where no loss is wanted."""
    columns: dict[str, list[np.ndarray]] = {"input_ids": [], "labels": []}
    for pair in pairs:
        prompt, answer = tokenise_chosen(tokenizer, pair, tokens)
        hidden = [-100] * len(prompt) if completion_only else prompt
        columns["input_ids"].append(np.array(prompt + answer, np.int32))  # a tenth of a list of Python's ints
        columns["labels"].append(np.array(hidden + answer, np.int32))
    table = pa.table({name: _lists(column) for name, column in columns.items()})
    return Dataset(table, fingerprint="labelled")  # it would be a hash of all rows, which nobody reads


def _lists(column: list[np.ndarray]) -> pa.ListArray:
    ends = pa.array(np.cumsum([0, *map(len, column)]), pa.int32())  # an error where they are more than that counts
    return pa.ListArray.from_arrays(ends, np.concatenate([np.empty(0, np.int32), *column]))
