"""Sampling by the processes of a launcher, each of which answers its share of the prompts with all weights.

A prompt's random numbers are its own, so in how many processes they are drawn changes an answer by rounding only.
"""

import os
from pathlib import Path

from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.models.policy.folder import load_policy
from epsilon_dpo.pipeline.launch.processes import Track, run_part
from epsilon_dpo.pipeline.stage.files import Json
from epsilon_dpo.pipeline.stage.params import parse
from epsilon_dpo.pipeline.stage.runtime import on_device, set_up
from epsilon_dpo.sampling.answers.drawing import sample
from epsilon_dpo.sampling.answers.params import Sampler


def sample_in_shares(
    folder: Path,
    prompts: dict[str, list[int]],
    seeds: dict[str, int],
    params: Sampler,
    threads: int,
    scratch: Path | None,
    state: str,
) -> dict[str, list[int]]:
    """Completion ids by row id, in the order of `prompts`, up to the token that ends each.

    Args:
        folder: model and tokenizer.
        prompts: token ids by row id.
        scratch: where each process keeps its state, under `state` and its number; None: nowhere.

    Raises:
        UserError: as run_part.
    """
    arguments = {
        "model": str(folder.absolute()),
        "prompts": prompts,
        "seeds": seeds,
        "params": params.model_dump(include=set(Sampler.model_fields)),
        "threads": threads,
        "scratch": None if scratch is None else str(scratch.absolute()),
        "state": state,
    }
    found = {id_: ids for share in run_part(sample_share, arguments, lambda metrics, step: None) for id_, ids in share}
    return {id_: found[id_] for id_ in prompts}


def sample_share(arguments: Json, track: Track) -> list[tuple[str, list[int]]]:
    """This process's share of the prompts, answered; shares are alike in length."""
    set_up(0, arguments["threads"])  # whatever is drawn has a seed of its own
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    prompts = arguments["prompts"]
    mine = sorted(prompts, key=lambda id_: (len(prompts[id_]), id_))[rank::count] if count > 1 else list(prompts)
    folder = Path(arguments["model"])
    model = on_device(load_policy(folder))
    scratch = None if arguments["scratch"] is None else Path(arguments["scratch"])
    state = arguments["state"] if count == 1 else f"{arguments['state']}-{rank}-of-{count}"
    params = parse(Sampler, arguments["params"])
    own = {id_: prompts[id_] for id_ in mine}
    return list(sample(model, load_tokenizer(folder), own, arguments["seeds"], params, scratch, state).items())
