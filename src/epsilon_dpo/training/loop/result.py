"""What a finished training leaves in its stage's folder: the policy, its curves and its metrics."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from transformers import PreTrainedTokenizerBase, Trainer

from epsilon_dpo.models.policy.folder import save_policy
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import write_json, write_jsonl
from epsilon_dpo.training.loop.metrics_jsonl import training_rows
from epsilon_dpo.training.loop.sharding import gathered_weights

NOT_REPRODUCIBLE_SUFFIXES = ("_runtime", "_per_second")  # clock times
COUNTS = ("epoch", "num_input_tokens_seen")  # of a row of metrics.jsonl: since the start of the training


def write_result(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    track: Callable[[dict[str, float], int], None],
    end_state: Mapping[str, float],
) -> dict[str, float]:
    """Evaluate and write model/, metrics.jsonl and metrics.json to `out`; every rank takes part, rank 0 writes.

    Args:
        track: function of the evaluation and the number of optimizer steps.

    Returns:
        the content of metrics.json: `steps`, what `over_training` gives, eval_* without clock times, `end_state`.

    Raises:
        UserError: a number of the evaluation is not finite; nothing is written.
    """
    evaluation = {
        name: value
        for name, value in trainer.evaluate().items()
        if name.startswith("eval_") and not name.endswith(NOT_REPRODUCIBLE_SUFFIXES)
    }
    broken = [name for name, value in evaluation.items() if not math.isfinite(value)]
    if broken:
        raise UserError(
            f"{broken[0]} is {evaluation[broken[0]]} after the last step: the training diverged; lower its "
            "learning_rate (a run's own, if it has one) or max_grad_norm in params.yaml."
        )
    rows = training_rows(trainer.state)
    steps = trainer.state.global_step
    metrics = {"steps": steps, **over_training(rows), **evaluation}
    if trainer.args.world_size > 1:
        metrics["processes"] = trainer.args.world_size  # it decides how sums round, and is no part of the params
    assert not metrics.keys() & end_state.keys(), "a method's state would replace a metric"
    metrics |= end_state
    policy = trainer.accelerator.unwrap_model(trainer.model)
    weights = gathered_weights(policy)
    if trainer.is_world_process_zero():
        track(evaluation, steps)
        save_policy(policy, tokenizer, out / "model", weights)
        write_jsonl(out / "metrics.jsonl", rows)
        write_json(out / "metrics.json", metrics)
    return metrics


def over_training(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What transformers and TRL call `train_loss`, the mean over all optimizer steps, and the COUNTS as train_*.

    Made of the rows: transformers' own is of the steps since a resumption alone. What else a row holds is of its step,
    and would pass for the training's under such a name.

    Args:
        rows: those of metrics.jsonl, each the mean of equally many steps.
    """
    counts = {f"train_{name}": rows[-1][name] for name in COUNTS if name in rows[-1]}
    return {"train_loss": fmean(row["loss"] for row in rows), **counts}


def without_evaluation(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that `write_result` returns and has not tracked: it tracks the evaluation, one point at its step."""
    return {name: value for name, value in metrics.items() if not name.startswith("eval_")}
