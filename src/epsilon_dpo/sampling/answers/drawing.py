"""Answers of a model at hand to prompts of token ids, in this process."""

import hashlib
import json
from pathlib import Path
from typing import Literal

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from epsilon_dpo.sampling.answers.params import Sampler
from epsilon_dpo.sampling.answers.processors import ProcessedNoise
from epsilon_dpo.sampling.decoding.decoding import decode
from epsilon_dpo.sampling.decoding.kept_state import KeptState
from epsilon_dpo.sampling.decoding.noise import GumbelNoise
from epsilon_dpo.sampling.decoding.stops import Stops

# The reference's noise is not the runs': a win rate against the reference compares independent answers. The runs share
# theirs, which takes noise out of the differences between runs and changes the distribution of none.
Stream = Literal["reference", "policy", "candidates"]


def seed_of(seed: int, stream: Stream, id_: str) -> int:
    """A 64-bit seed from the pipeline's seed and the row's id; Python's hash() would differ between processes."""
    text = json.dumps([seed, stream, id_])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: dict[str, list[int]],
    seeds: dict[str, int],
    params: Sampler,
    scratch: Path | None = None,
    name: str = "sampling",
) -> dict[str, list[int]]:
    """Completion ids by row id, up to and including the token that stops it.

    Args:
        scratch: where the state is kept under `name`; None: nowhere.
    """
    ids = list(prompts)
    token_ids, own = [prompts[id_] for id_ in ids], [seeds[id_] for id_ in ids]
    if params.logits.in_use():
        choose: GumbelNoise | ProcessedNoise = ProcessedNoise(
            params.logits, params.temperature, token_ids, own, model.device
        )
    else:
        choose = GumbelNoise(own, params.temperature, model.device)
    ends = Stops(tokenizer, params.stop)
    kept = None if scratch is None else KeptState(scratch, f"{name}-{model.device.type}", choose)
    finished = decode(model, token_ids, choose, ends, params.max_new_tokens, params.batch_size, kept)
    return {ids[i]: found for i, found in tqdm(finished, desc="sample", total=len(ids), unit="answer")}
