"""Prompt identity: which rows share a prompt, and pairings that never stay within one."""

import hashlib
import json
from collections.abc import Hashable, Sequence

import numpy as np

from epsilon_dpo.pipeline.stage.files import Messages, prompt_identity


def prompt_id(prompt: Messages) -> str:
    """The same 16 characters for the same prompt, whatever its row; spread evenly, so that its order is a shuffle."""
    return hashlib.sha256(json.dumps(prompt_identity(prompt), sort_keys=True).encode()).hexdigest()[:16]


def partners(prompts: Sequence[Hashable], seed: int) -> list[int]:
    """A permutation that gives each row, by its place, the place of a row with another prompt.

    Rows are lined up prompt by prompt, the prompts in random order, and moved on by the size of the largest prompt.

    Raises:
        ValueError: more than half of the rows share a prompt.
    """
    places: dict[Hashable, list[int]] = {}
    for place, prompt in enumerate(prompts):
        places.setdefault(prompt, []).append(place)
    largest = max(map(len, places.values()))
    if 2 * largest > len(prompts):
        raise ValueError(f"{largest} of {len(prompts)} rows share one prompt")
    groups = list(places.values())
    line = [place for group in np.random.default_rng(seed).permutation(len(groups)) for place in groups[group]]
    moved = dict(zip(line, line[largest:] + line[:largest], strict=True))
    return [moved[place] for place in range(len(prompts))]
