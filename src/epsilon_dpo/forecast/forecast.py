"""`epsilon-dpo forecast` in one call: params.yaml in, the table or JSON out."""

import argparse
import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from epsilon_dpo.check.params_file import ParamsFile, load_file
from epsilon_dpo.data.pairs.pairs import most_pairs
from epsilon_dpo.data.pairs.params import DatasetPairs
from epsilon_dpo.data.sources.generated import split_prompts
from epsilon_dpo.data.sources.params import SyntheticSource
from epsilon_dpo.forecast.architecture import config_of
from epsilon_dpo.forecast.inference import of_candidates, of_kl, of_monotonicity, of_sample, prompts_of
from epsilon_dpo.forecast.judges import of_judge
from epsilon_dpo.forecast.lengths import Lengths, at_most, lengths_of, of_dataset
from epsilon_dpo.forecast.machine import Machine
from epsilon_dpo.forecast.needs import Needs
from epsilon_dpo.forecast.table import table
from epsilon_dpo.forecast.trainings import Given, given, of_align, of_copies, of_sft
from epsilon_dpo.pipeline.jobs.gather import LOCK_FILE
from epsilon_dpo.pipeline.observability.errors import UserError, first_line
from epsilon_dpo.pipeline.stage.params import PARAMS_FILE, read_yaml

STAGES_OF_PAIRS = ("fetch", "base", "validate", "candidates", "pairs")  # whose params decide how many pairs, how long


def forecast(asked: argparse.Namespace) -> str:
    """What is printed.

    Raises:
        UserError: params.yaml is refused, the model's config is not at hand, or its step cannot be simulated.
    """
    params = load_file(asked.params)
    machine = Machine(
        gpus=asked.gpus,
        memory=None if asked.gpu_memory is None else asked.gpu_memory * 1e9,
        peak=None if asked.peak_tflops is None else asked.peak_tflops * 1e12,
        mfu=asked.mfu,
        shard=asked.shard,
        threads=params.threads,
    )
    others = asked.model_config is not None or asked.pairs is not None
    own = asked.params.resolve() == PARAMS_FILE.resolve() and not others and pairs_are_made_from(PARAMS_FILE)
    try:
        of, needs = needs_of(params, machine, asked.model_config, asked.pairs, own)
    except ValueError as error:  # of transformers: a model that runs in no form which a stage would give it
        raise UserError(f"The model of base cannot be simulated ({first_line(error)}); choose another.") from error
    return as_json(of, needs) if asked.json else table(of, needs)


def pairs_are_made_from(file: Path) -> bool:
    """Whether out/pairs, if it is there, has the lengths of `file`: by dvc.lock, its stages had the same values.

    What dvc.lock does not record is taken for what was made from them, since it was made after the last `dvc repro`.

    Raises:
        UserError: dvc.lock is no YAML, or a part of it alone is there.
    """
    now, locked = read_yaml(file), read_yaml(LOCK_FILE).get("stages", {}) if LOCK_FILE.is_file() else {}
    try:
        recorded = [locked.get(stage, {}).get("params", {}).get(PARAMS_FILE.name, {}) for stage in STAGES_OF_PAIRS]
        values = [(name, value) for params in recorded for name, value in params.items() if name != "threads"]
    except (AttributeError, TypeError):
        raise UserError(
            f"{LOCK_FILE} is cut off: run this again if a dvc is at work, which writes it in place; else a kill left "
            'it so (docs/howto.md, "After a crash").'
        ) from None
    return all(_of_pairs(now.get(name)) == _of_pairs(value) for name, value in values)


def _of_pairs(block: Any) -> Any:
    """`block` without what decides no pair's length: how many answers are drawn at once."""
    return {key: value for key, value in block.items() if key != "batch_size"} if isinstance(block, dict) else block


def needs_of(
    params: ParamsFile, machine: Machine, model_config: Any = None, pairs: int | None = None, own: bool = False
) -> tuple[Given, list[Needs]]:
    """Of every stage with a model; other arguments as of the command.

    Args:
        own: whether `params` are the project's, so that out/pairs, if it is there, is made from them.
    """
    logging.getLogger("transformers").setLevel(logging.ERROR)  # hints for those who would train the model made here
    config = config_of(params.base, model_config)
    dataset, aligned = _training_pairs(params, of_dataset("train", pairs or _pairs(params), own), own)
    evaluation = lengths_of("eval", params.tokens, of_dataset("eval", _evaluation_pairs(params), own), own)
    of = given(params, config, machine, aligned)
    before = replace(of, train=dataset)
    first = [one for one in (of_sft(before), of_candidates(before)) if one is not None]
    found = [*of_copies(of), *first, *of_align(of), of_sample(of, evaluation)]
    judges = [line for block in params.judges for line in of_judge(of, block)]
    return of, [*found, of_kl(of, evaluation), of_monotonicity(of, evaluation), *judges]


def _training_pairs(params: ParamsFile, count: int | None, own: bool) -> tuple[Lengths, Lengths]:
    """Of the `count` pairs of the dataset, which sft and candidates read, and of those that align learns from."""
    if isinstance(params.pairs, DatasetPairs) or params.candidates is None:
        found = lengths_of("train", params.tokens, count, own)
        return found, found
    prompts = prompts_of(params.candidates, count)
    of_each = most_pairs(params.candidates.samples_per_prompt, params.pairs.choose)
    most = None if prompts is None else prompts * of_each
    return at_most(params.tokens, count), lengths_of("train", params.tokens, most, own)


def _pairs(params: ParamsFile) -> int | None:
    """Training pairs, as far as block fetch says how many."""
    if isinstance(params.fetch, SyntheticSource):
        return params.fetch.train_pairs
    found: int | None = getattr(params.fetch, "max_train_pairs", None)
    return found


def _evaluation_pairs(params: ParamsFile) -> int | None:
    if isinstance(params.fetch, SyntheticSource):
        return len(split_prompts(params.fetch.eval_share, params.seed)[1])
    found: int | None = getattr(params.fetch, "max_eval_pairs", None)
    return found


def as_json(of: Given, needs: list[Needs]) -> str:
    """Bytes, FLOPs and hours."""
    stages = []
    for one in needs:
        memory = None if one.memory is None else {**asdict(one.memory), "total": one.memory.total}
        stages.append({**asdict(one), "memory": memory})
    model = {"parameters": of.sizes.parameters, "layers": of.sizes.layers, "hidden_size": of.sizes.hidden}
    model["vocab_size"] = of.sizes.vocabulary
    lengths = {"measured": of.train.measured, "pairs": of.train.count}
    content = {"model": model, "machine": asdict(of.machine), "lengths": lengths, "stages": stages}
    return json.dumps(content, indent=2)
