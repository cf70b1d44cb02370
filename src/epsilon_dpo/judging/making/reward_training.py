"""Training a scalar reward model on preference pairs: TRL's RewardTrainer on -log sigmoid(r(chosen) - r(rejected)).

The first step of RLHF (Ouyang et al., 2022, arXiv 2203.02155). A pair fixes a difference of rewards only: each prompt's
rewards may be moved by a constant, which `center_rewards_coefficient` takes towards 0 (Eisenstein et al., 2023, arXiv
2312.09244), as the mean of (r(chosen) + r(rejected))^2.

The rows are tokenised and cut here as RewardModel scores them, and not by TRL, which drops what is too long.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from trl import RewardConfig, RewardTrainer

from epsilon_dpo.data.tokens.positions import require_positions
from epsilon_dpo.judging.judges.interface import Question
from epsilon_dpo.judging.judges.reward_model import RewardModel
from epsilon_dpo.judging.making.pairrm_training import Track
from epsilon_dpo.judging.making.params import TrainedRewardJudge
from epsilon_dpo.models.base.embedded import build_model, texts_of, train_tokenizer
from epsilon_dpo.models.base.model_folder import write_model
from epsilon_dpo.models.base.params import PretrainedModel
from epsilon_dpo.models.base.pretrained import load_pretrained
from epsilon_dpo.pipeline.observability.progress import show_one_bar
from epsilon_dpo.pipeline.stage.execution import PART
from epsilon_dpo.pipeline.stage.files import Json
from epsilon_dpo.pipeline.stage.params import parse
from epsilon_dpo.pipeline.stage.runtime import set_up
from epsilon_dpo.training.loop.arguments import require_a_row_each, training_arguments
from epsilon_dpo.training.loop.checkpoints import SealedCheckpoints, last_sealed_checkpoint
from epsilon_dpo.training.loop.metrics_jsonl import MetricStream
from epsilon_dpo.training.loop.params import Accelerated
from epsilon_dpo.training.loop.sharding import gathered_weights, shard
from epsilon_dpo.training.loop.whole_steps import WholeSteps


def train_reward(
    pairs: list[Question],
    params: TrainedRewardJudge,
    seed: int,
    scratch: Path,
    metrics: Path,
    track: Track,
    save_steps: int,
) -> tuple[RewardModel, dict[str, Tensor] | None]:
    """A reward model from `params.model`, whose language-model head gives way to one number at the last token.

    Args:
        pairs: `a` is the chosen answer.
        seed: RNG seed of the new head (and of an embedded model's weights) and of the pairs' order in each epoch.
        scratch: checkpoints go here every `save_steps` optimizer steps; the last one found here is resumed.
        metrics: the file to which a row per optimizer step is written.
        track: function of the same metrics and the optimizer step.

    Returns:
        the model, and its weights where they are spread over processes (sharding.gathered_weights).

    Raises:
        UserError: the pretrained model or its tokenizer cannot be used (models/base/pretrained.py), it has fewer
            positions than `max_length`, or a step has fewer rows than there are processes.
        ValueError: the tokenizer has no token to pad with.
    """
    require_a_row_each(params.batch_size)
    model, tokenizer = _start(pairs, params, seed, scratch / "start")
    require_positions(model.config, "judge.max_length", params.max_length)
    judge = RewardModel(model, tokenizer, params.max_length, params.micro_batch_size)
    hyperparameters = Accelerated(**params.model_dump(include=set(Accelerated.model_fields)))
    trainer = _Trainer(
        model=model.train(),
        args=RewardConfig(
            **training_arguments(hyperparameters, seed, scratch, save_steps),
            center_rewards_coefficient=params.center_rewards_coefficient,
            max_length=None,
        ),
        train_dataset=Dataset.from_list([_row(judge, pair) for pair in pairs]),
        processing_class=tokenizer,
        callbacks=[SealedCheckpoints(), MetricStream(metrics, track)],
    )
    shard(model, trainer.accelerator)
    show_one_bar(trainer)
    trainer.train(resume_from_checkpoint=last_sealed_checkpoint(scratch))
    trained = trainer.accelerator.unwrap_model(trainer.model)
    weights = gathered_weights(trained)
    return RewardModel(trained, tokenizer, params.max_length, params.micro_batch_size), weights


def reward_part(arguments: Json, track: Track) -> str:
    """`train_reward` in one of the launcher's processes, or in the stage's own; the dtype of what is written."""
    params = parse(TrainedRewardJudge, arguments["params"])
    pairs = [Question(*pair) for pair in arguments["pairs"]]
    seed, out, scratch = arguments["seed"], Path(arguments["out"]), Path(arguments["scratch"])
    if PART in os.environ:  # else the stage has
        set_up(seed, arguments["threads"])
    metrics = out / "metrics.jsonl"
    trained, weights = train_reward(pairs, params, seed, scratch, metrics, track, arguments["save_steps"])
    if PartialState().is_main_process:
        trained.model.config._name_or_path = ""  # no place on this machine
        trained.model.save_pretrained(out, state_dict=weights)
        for file in out.glob("*.safetensors"):
            file.chmod(0o644)
        trained.tokenizer.save_pretrained(out)
    return str(trained.model.dtype).removeprefix("torch.")


class _Trainer(WholeSteps, RewardTrainer):
    """TRL's loss and metrics as sums over the pairs of a step, which may be cut into parts of unequal size."""

    _rewards: list[Tensor]  # of the pairs since the last row, [2, B] each: chosen, rejected

    def row_length(self, row: dict[str, list[int]]) -> int:
        return max(len(row["chosen_ids"]), len(row["rejected_ids"]))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The part of these pairs in the step's mean loss; `num_items_in_batch` is how many pairs that has."""
        chosen, rejected = model(**inputs, use_cache=False).logits.squeeze(-1).chunk(2)
        losses = -torch.nn.functional.logsigmoid(chosen - rejected)
        centre: float | None = cast(RewardConfig, self.args).center_rewards_coefficient
        if centre is not None:
            losses = losses + centre * (chosen + rejected) ** 2
        rewards = torch.stack([chosen, rejected])[:, : self.rows_now].detach().double()
        self._rewards = [*getattr(self, "_rewards", []), rewards]
        assert num_items_in_batch is not None
        counted: Tensor = losses[: self.rows_now].sum()
        return counted * (self.accelerator.num_processes / num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            rewards = torch.cat(gather_object([torch.cat(self._rewards, dim=1).cpu()]), dim=1)
            self._rewards = []
            margins = rewards[0] - rewards[1]
            found = {
                **{f"{name}_reward": getattr(rewards, name)() for name in ("min", "mean", "max")},
                "accuracy": (margins > 0).double().mean(),
                "margin": margins.mean(),
            }
            self._metrics["train"].update({name: [value.item()] for name, value in found.items()})
        super().log(logs, start_time)


def _start(
    pairs: list[Question], params: TrainedRewardJudge, seed: int, folder: Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The language model written to `folder` and read again as a classifier of one label: so for every architecture."""
    if isinstance(params.model, PretrainedModel):
        model, tokenizer = load_pretrained(params.model, "judge.model")
    else:
        tokenizer = train_tokenizer(texts_of(_dialogues(pairs)), params.model)
        model = build_model(params.model, tokenizer, seed)
    with PartialState().main_process_first():  # the others read what is written, and not what is being written
        if PartialState().is_main_process:
            write_model(model, tokenizer, folder)
    torch.manual_seed(seed)
    # What it lacks is the head, and what is left over the language model's: transformers reports both at length.
    classifier: Any = AutoModelForSequenceClassification.from_pretrained(
        folder / "model", num_labels=1, trust_remote_code=False, dtype="auto", local_files_only=True
    )
    return classifier, tokenizer


def _dialogues(pairs: list[Question]) -> Iterator[dict[str, Any]]:
    for prompt, *answers in pairs:
        chosen, rejected = ([*prompt, {"role": "assistant", "content": answer}] for answer in answers)
        yield {"chosen": chosen, "rejected": rejected}


def _row(judge: RewardModel, pair: Question) -> dict[str, list[int]]:
    return {"chosen_ids": list(judge.ids(pair.prompt, pair.a)), "rejected_ids": list(judge.ids(pair.prompt, pair.b))}
