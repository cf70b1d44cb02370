"""Stage `align` in one call for an online method: the SFT model, prompts, a scorer; the aligned policy and its metrics.

Of the block `align` an online run takes what describes the optimizer: learning rate, schedule, clipping, adapter,
precision. `micro_batch_size` is in answers; how long it trains is said by its own `steps`, and on how many answers by
`k` and `prompts_per_step`, so that `num_train_epochs`, `max_steps` and `batch_size` are not read. `step` of
metrics.jsonl counts optimizer steps as everywhere; rows and checkpoints are written at the ends of generations.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainingArguments

from epsilon_dpo.data.tokens.positions import positions_of
from epsilon_dpo.methods.online import OnlineMethod
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.training.alignment.alignment import finish, start
from epsilon_dpo.training.alignment.pair_data import PairData
from epsilon_dpo.training.alignment.params import Align
from epsilon_dpo.training.loop.checkpoints import SealedCheckpoints
from epsilon_dpo.training.loop.metrics_jsonl import MetricStream
from epsilon_dpo.training.loop.sharding import asked_for
from epsilon_dpo.training.online.online_trainer import OnlineTrainer
from epsilon_dpo.training.online.prompts import Prompt, PromptOrder, read_prompts
from epsilon_dpo.training.online.rollouts import DrawAnswers, ScoreAnswers


def align_online(
    method: OnlineMethod[Any],
    config: Align,
    seed: int,
    sft_model: Path,
    pairs: Path,
    prompts: dict[str, Path],
    draw: DrawAnswers,
    score: ScoreAnswers,
    out: Path,
    scratch: Path,
    track: Callable[[dict[str, float], int], None],
    *,
    save_steps: int,
) -> dict[str, float]:
    """Train from `sft_model` on answers of its own to the prompts of `prompts`["train"], and evaluate it on
    `pairs`/eval.jsonl and by one answer to each of `prompts`["eval"].

    Writes what alignment.align writes; a killed run continues as there, from the end of a generation.

    Args:
        seed: RNG seed of the prompts' order and of every answer, unless the run states its own.
        draw, score: see rollouts.py; `draw` must draw from softmax(logits) at most the method's `max_new_tokens`.
        save_steps: optimizer steps between two checkpoints, up to the end of a generation.

    Returns:
        the content of metrics.json, as alignment.align, with eval_reward, eval_kl/rev and the like of own answers.

    Raises:
        UserError: the launcher shards the weights; there are fewer prompts than a step needs, or one is too long;
            the scorer gives no finite number; the evaluation's pairs cannot share their prompt's row.
    """
    if asked_for():
        raise UserError(
            f"runs of method {method.config.method} draw answers with all weights in each process, and this "
            "launcher shards the weights (FSDP); take launchers/ddp.yaml for them, or no launcher."
        )
    begun = start(method, config, seed, sft_model, scratch, save_steps)
    assert begun.reference is not None
    train_prompts, eval_prompts = (read_prompts(prompts[split]) for split in ("train", "eval"))
    _refuse_what_does_not_fit(begun.model, [*train_prompts, *eval_prompts], method.config.max_new_tokens)
    evaluation = PairData.read(pairs / "eval.jsonl")
    settings = begun.settings | {
        "max_steps": method.config.steps * method.updates,
        "logging_steps": method.updates,
        "save_steps": -(-save_steps // method.updates) * method.updates,  # up to the end of a generation
        "per_device_train_batch_size": 1,  # a generation
    }
    trainer = OnlineTrainer(
        model=begun.model,
        reference=begun.reference,
        method=method,
        draw=draw,
        score=score,
        prompts=PromptOrder(train_prompts, method.config.prompts_per_step, begun.seed),
        eval_prompts=eval_prompts,
        micro_batch=config.micro_batch_size,
        token_chunk=config.logps_token_chunk,
        args=TrainingArguments(**settings),
        eval_dataset=evaluation,
        pad_token_id=begun.tokenizer.pad_token_id or 0,
        callbacks=[SealedCheckpoints(), MetricStream(scratch / "metrics.jsonl", track)],
        share_prompt=config.share_prompt,
    )
    return finish(trainer, begun.tokenizer, evaluation, out, scratch, track)


def _refuse_what_does_not_fit(model: PreTrainedModel, prompts: Sequence[Prompt], max_new_tokens: int) -> None:
    positions = positions_of(model.config)
    longest = max(prompts, key=lambda prompt: len(prompt.ids))
    if positions is not None and len(longest.ids) + max_new_tokens > positions.count:
        raise UserError(
            f"The prompt of row {longest.id} has {len(longest.ids)} tokens and this run's max_new_tokens is "
            f"{max_new_tokens}, together more than {positions}; lower max_new_tokens of the run in params.yaml, or "
            "tokens.max_prompt_length."
        )
