"""Stage `align` in one call: the SFT model, the pairs and a method in; the aligned policy and its metrics out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainingArguments

from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.methods.interface import Method
from epsilon_dpo.methods.online import AnyMethod
from epsilon_dpo.models.logps.head import check_head
from epsilon_dpo.models.policy.folder import load_policy
from epsilon_dpo.pipeline.observability.progress import show_one_bar
from epsilon_dpo.training.alignment.method_trainer import MethodTrainer
from epsilon_dpo.training.alignment.pair_data import PairData
from epsilon_dpo.training.alignment.pair_logps import check_shared_prompt
from epsilon_dpo.training.alignment.params import Align
from epsilon_dpo.training.alignment.reference_model import refuse_noise
from epsilon_dpo.training.alignment.snapshots import KeepSnapshots, publish_snapshots
from epsilon_dpo.training.alignment.trainer import PreferenceTrainer
from epsilon_dpo.training.loop.adapters import start_from
from epsilon_dpo.training.loop.arguments import require_a_row_each, training_arguments
from epsilon_dpo.training.loop.checkpoints import SealedCheckpoints, last_sealed_checkpoint
from epsilon_dpo.training.loop.metrics_jsonl import MetricStream
from epsilon_dpo.training.loop.result import write_result
from epsilon_dpo.training.loop.sharding import is_sharded


def align(
    method: Method[Any],
    config: Align,
    seed: int,
    sft_model: Path,
    pairs: Path,
    out: Path,
    scratch: Path,
    track: Callable[[dict[str, float], int], None],
    margins: Path | None = None,
    *,
    save_steps: int,
) -> dict[str, float]:
    """Train from `sft_model` on `pairs`/train.jsonl and evaluate on `pairs`/eval.jsonl.

    Writes model/ (weights or adapter, tokenizer, generation settings that stop at its eos token), metrics.jsonl,
    metrics.json and, if the run asks for them, snapshots/ to `out`, on rank 0 alone. A killed run continues from its
    last sealed checkpoint in `scratch`, to the same bytes.

    Args:
        seed: RNG seed of the data's order, the mismatched answers and every draw, unless the run states its own.
        track: function of the metrics and the optimizer step of each row of metrics.jsonl.
        margins: folder of stage `margins`; read only for a method that needs scores.
        save_steps: optimizer steps between two checkpoints.

    Returns:
        the content of metrics.json: the loss over the training as `train_loss` and what it counted as train_*, eval_*,
        and the numbers of the method's state at the end (not its lists).
    """
    require_a_row_each(config.batch_size)
    begun = start(method, config, seed, sft_model, scratch, save_steps)
    train, evaluation = (_data(method, begun.seed, pairs, margins, f"{split}.jsonl") for split in ("train", "eval"))
    trainer = PreferenceTrainer(
        model=begun.model,
        reference=begun.reference,
        method=method,
        token_chunk=config.logps_token_chunk,
        args=TrainingArguments(**begun.settings),
        train_dataset=train,
        eval_dataset=evaluation,
        pad_token_id=begun.tokenizer.pad_token_id or 0,
        callbacks=[SealedCheckpoints(), MetricStream(scratch / "metrics.jsonl", track)],
        share_prompt=config.share_prompt,
    )
    return finish(trainer, begun.tokenizer, train, out, scratch, track)


class Start(NamedTuple):
    """What a training by any method begins with.

    Attributes:
        seed: the run's own, or the pipeline's.
        settings: arguments of TrainingArguments.
        reference: see MethodTrainer.
    """

    tokenizer: PreTrainedTokenizerFast
    seed: int
    settings: dict[str, Any]
    model: PreTrainedModel
    reference: PreTrainedModel | None


def start(method: AnyMethod, config: Align, seed: int, sft_model: Path, scratch: Path, save_steps: int) -> Start:
    """The policy in `sft_model` and the reference that `method` needs; arguments as of `align`."""
    if method.config.seed is not None:
        seed = method.config.seed
    settings = training_arguments(config, seed, scratch, save_steps)
    settings |= {"remove_unused_columns": False, "include_num_input_tokens_seen": "non_padding"}
    if method.config.learning_rate is not None:
        settings["learning_rate"] = method.config.learning_rate
    model = start_from(sft_model, config.lora, seed, scratch)
    check_head(model)
    refuse_noise(model)
    reference = None
    if method.needs_reference:
        reference = load_policy(sft_model) if config.lora is None else model  # itself without its adapter
    return Start(load_tokenizer(sft_model), seed, settings, model, reference)


def finish(
    trainer: MethodTrainer,
    tokenizer: PreTrainedTokenizerFast,
    pairs: PairData,
    out: Path,
    scratch: Path,
    track: Callable[[dict[str, float], int], None],
) -> dict[str, float]:
    """Train, from the last checkpoint if there is one, evaluate and write; the content of metrics.json.

    Args:
        pairs: whose longest one must be the same in one row, if pairs are to share their prompt's.

    Raises:
        UserError: it is not.
    """
    method, model, evaluation = trainer.method, trainer.model, trainer.eval_dataset
    assert isinstance(evaluation, PairData) and isinstance(model, PreTrainedModel)
    if trainer.collate.share_prompt:
        # A sharded model has its autocast from the start (sharding.shard), another one gets it when it is trained.
        autocast = trainer.args.bf16 and is_sharded(model)
        check_shared_prompt(model, max(pairs.rows, key=trainer.collate.length), autocast)
    evaluation.rows.sort(key=trainer.collate.length)  # for less padding: these are averaged in any order
    if method.config.snapshot_epochs is not None:
        trainer.add_callback(KeepSnapshots(method.config.snapshot_epochs, tokenizer, scratch))
    show_one_bar(trainer)
    trainer.train(resume_from_checkpoint=last_sealed_checkpoint(scratch))
    if trainer.is_world_process_zero():
        publish_snapshots(scratch, out)
    numbers = {name: value for name, value in method.state_dict().items() if isinstance(value, int | float)}
    return write_result(trainer, tokenizer, out, track, numbers)


def _data(method: Method[Any], seed: int, pairs: Path, margins: Path | None, name: str) -> PairData:
    """The pairs of file `name` with what the method needs beside them; arguments as of `align`."""
    if method.needs_scores and margins is None:
        raise ValueError(f"{type(method).__name__} needs scores")
    scores = margins / name if margins is not None and method.needs_scores else None
    return PairData.read(pairs / name, seed if method.mismatched else None, scores, method.needs_flip_rates)
