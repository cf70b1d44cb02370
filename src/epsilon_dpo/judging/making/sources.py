"""Judges by name: `judge.source` in params.yaml decides what out/judge holds, `teacher.source` what out/teacher."""

import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from epsilon_dpo.data.tokens.positions import require_positions
from epsilon_dpo.judging.judges import pairrm_folder, reward_model, sentiment
from epsilon_dpo.judging.judges.interface import Judge, Question
from epsilon_dpo.judging.judges.llm_prompt import TEMPLATE, USER, system
from epsilon_dpo.judging.judges.loading import judge_of
from epsilon_dpo.judging.judges.reward_model import RewardModel
from epsilon_dpo.judging.making.pairrm_training import Track, train
from epsilon_dpo.judging.making.params import (
    AnyJudge,
    LLMJudge,
    PretrainedJudge,
    RewardModelJudge,
    SentimentJudge,
    TrainedJudge,
    TrainedRewardJudge,
)
from epsilon_dpo.judging.making.sentiment_training import train_tfidf
from epsilon_dpo.models.base.template import freeze
from epsilon_dpo.models.base.weight_files import INDEX, WEIGHTS, weight_files
from epsilon_dpo.pipeline.hub.download import hub_folder
from epsilon_dpo.pipeline.launch.processes import run_part
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row, write_json
from epsilon_dpo.pipeline.stage.fingerprint import digest

# What a judge on local weights reads of its params when it is loaded again.
KEPT = {"source", "batch_size", "budget", "source_max_length", "candidate_max_length", "max_length", "dtype"}


def build(
    params: AnyJudge,
    pairs: list[Question],
    seed: int,
    out: Path,
    scratch: Path,
    track: Track,
    labelled: list[Row] | None = None,
    *,
    save_steps: int,
) -> Judge:
    """The judge that `params` describes, written to `out` with judge.json, from which alone it can be loaded again.

    Args:
        pairs: the training pairs, `a` the chosen answer; not looked at if there is nothing to train.
        seed, scratch, track, save_steps: arguments of the training, see `train`.
        labelled: rows of out/validate/labelled.jsonl, for a classifier that is trained on them.

    Raises:
        UserError: the weights' source is unreachable, missing, pickled or not such a judge, or a reward model has fewer
            positions than `max_length`; or as `train_tfidf`.
    """
    if isinstance(params, LLMJudge | SentimentJudge):
        settings = _address(params) if isinstance(params, LLMJudge) else _sentiment_into(out, params, labelled or [])
        write_json(out / "judge.json", settings)
        return judge_of(settings, out)
    if isinstance(params, TrainedJudge):
        settings, folder = _train_into(out, params, pairs, seed, scratch, track, save_steps), out
    elif isinstance(params, TrainedRewardJudge):
        settings, folder = _train_reward_into(out, params, pairs, seed, scratch, track, save_steps), out
    else:
        settings, folder = _find(params)
    judge = judge_of(settings, folder)  # before anything is copied, so that a refusal names the source and not its copy
    template = None
    if isinstance(judge, RewardModel):
        require_positions(judge.model.config, "judge.max_length", judge.max_length)
        template = _frozen_template(judge, folder)
    if folder != out:
        _copy(folder, out, _files(params, folder))
    if template is not None:
        (out / "chat_template.jinja").write_text(template, "utf-8")
    write_json(out / "judge.json", settings | {"model_sha256": _weights_digest(out)})
    return judge


def training_file(params: AnyJudge) -> str | None:
    """The file of out/validate that the judge of `params` is trained on; None: it is taken as it is."""
    if isinstance(params, SentimentJudge):
        return "labelled.jsonl" if params.classifier == "tfidf" else None
    return "train.jsonl" if isinstance(params, TrainedJudge | TrainedRewardJudge) else None


def _train_into(
    out: Path, params: TrainedJudge, pairs: list[Question], seed: int, scratch: Path, track: Track, save_steps: int
) -> dict[str, Any]:
    model, layout = train(pairs, params, seed, scratch, out / "metrics.jsonl", track, save_steps)
    model.pretrained_model.config.save_pretrained(out)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, out / "model.safetensors")
    (out / "model.safetensors").chmod(0o644)  # safetensors makes it private to the user
    layout.tokenizer.save_pretrained(out)
    facts = {"kind": "pairrm", "budget": "example", "origin": _trained_on(params, len(pairs))}
    return params.model_dump(include=KEPT) | facts | {"batch_size": params.micro_batch_size}


def _train_reward_into(
    out: Path,
    params: TrainedRewardJudge,
    pairs: list[Question],
    seed: int,
    scratch: Path,
    track: Track,
    save_steps: int,
) -> dict[str, Any]:
    from epsilon_dpo.judging.making.reward_training import reward_part  # here, because importing TRL takes seconds

    arguments = {
        "params": params.model_dump(),
        "pairs": pairs,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "out": str(out),
        "scratch": str(scratch),
        "save_steps": save_steps,
    }
    facts = {"kind": "reward_model", "origin": _trained_on(params, len(pairs))}
    dtype = run_part(reward_part, arguments, track)[0]
    return params.model_dump(include=KEPT) | facts | {"dtype": dtype, "batch_size": params.micro_batch_size}


def _trained_on(params: TrainedJudge | TrainedRewardJudge, pairs: int) -> str:
    """Under `max_steps` a judge may see a part of the `pairs` alone."""
    if params.max_steps is None:
        return f"trained on {pairs} pairs"
    return f"trained for {params.max_steps} steps of {params.batch_size} pairs, from {pairs} pairs"


def _sentiment_into(out: Path, params: SentimentJudge, labelled: list[Row]) -> dict[str, Any]:
    """judge.json; VADER's weights are its package's, which its version identifies."""
    settings = params.model_dump() | {"kind": "sentiment"}
    if params.classifier == "vader":
        origin = f"VADER {version('vaderSentiment')}, a lexicon with rules"
        return settings | {"origin": origin, "model_sha256": hashlib.sha256(origin.encode()).hexdigest()}
    texts = train_tfidf(labelled, out)
    return settings | {
        "origin": f"logistic regression on TF-IDF, trained on {texts:,} labelled texts",
        "model_sha256": hashlib.sha256(
            "".join(digest(out / name) for name in (sentiment.VOCABULARY, sentiment.WEIGHTS)).encode()
        ).hexdigest(),
    }


def _find(params: PretrainedJudge | RewardModelJudge) -> tuple[dict[str, Any], Path]:
    """judge.json but for the weights' hash, and the folder where the weights are; a local one is named without path."""
    if params.revision is not None:
        folder = hub_folder(params.path, params.revision, _files(params))
        if (named := _files(params, folder)) != _files(params):  # shards, which the index names
            folder = hub_folder(params.path, params.revision, named)
        origin = f"{params.path} at {params.revision}"
    else:
        folder, origin = Path(params.path), f"local folder {Path(params.path).name}"
        if not folder.is_dir():
            raise UserError(
                f"judge.path = {params.path} is no folder; copy the judge there, or set judge.revision to a commit of "
                "a Hub repository such as llm-blender/PairRM-hf."
            )
    kind = "pairrm" if isinstance(params, PretrainedJudge) else "reward_model"
    return params.model_dump(include=KEPT) | {"kind": kind, "origin": origin}, folder


def _files(params: AnyJudge, folder: Path | None = None) -> list[str]:
    """What is read of a judge, where it is there; of weights in shards those that the index in `folder` names."""
    if isinstance(params, PretrainedJudge):
        return [*pairrm_folder.FILES]
    return [*reward_model.BUT_WEIGHTS, INDEX, *([WEIGHTS] if folder is None else weight_files(folder))]


def _address(params: LLMJudge) -> dict[str, Any]:
    """judge.json of a judge without weights: the hash is that of what is asked of whom."""
    asked = params.model_dump(include={"base_url", "model", "temperature", "max_tokens"})
    text = json.dumps([asked, system(params.criterion), USER], sort_keys=True)
    return params.model_dump() | {
        "kind": "llm",
        "origin": f"{params.model} at {params.base_url}",
        "template": TEMPLATE,
        "model_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def _copy(folder: Path, out: Path, names: list[str]) -> None:
    """Copies, so that scoring needs out/judge and nothing else.

    Raises:
        UserError: a file is a link to one of another name: whoever made the folder would say what of this machine is
            copied, and sent along by `dvc push`. Weights were read as such, and a Hub cache has its files as blobs.
    """
    for file in (folder / name for name in names if (folder / name).exists()):
        target = file.resolve()
        cached = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
        if not (target.name == file.name or file.suffix == ".safetensors" or cached):
            raise UserError(f"{file} is a link to {target}, of another name; copy the file itself there.")
        shutil.copyfile(file, out / file.name)


def _frozen_template(judge: RewardModel, folder: Path) -> str | None:
    """The template that writes the same text every day (models/base/template.py), from now on that of `judge`; None: it
    does so already.

    Raises:
        UserError: its text cannot be frozen.
    """
    template = judge.tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default", "")
    eos = str(judge.tokenizer.eos_token)
    try:
        frozen = freeze(template, eos, eos, bos_first=False)
    except UserError as fault:
        raise UserError(
            f"The chat template of the reward model in {folder} would not give an answer the same score twice: "
            f"{fault}; fix chat_template.jinja in a local copy and set judge.path to that."
        ) from None
    if frozen == template:
        return None
    judge.tokenizer.chat_template = frozen
    return frozen


def _weights_digest(folder: Path) -> str:
    """sha256 of the weights' file, or of the hashes of its shards."""
    digests = [digest(file) for file in sorted(folder.glob("*.safetensors"))]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
