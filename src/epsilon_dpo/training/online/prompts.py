"""Which prompts a generation answers, and the random numbers of each answer: functions of the seed and the step alone.

So nothing of them has to be saved, and neither the micro-batch nor a resumption changes an answer.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Messages, read_jsonl

EVALUATION = "evaluation"  # in the place of a step's number


@dataclass(frozen=True)
class Prompt:
    id: str
    ids: list[int]
    messages: Messages


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts that stage `scorer` wrote.

    Raises:
        UserError: there are none.
    """
    rows = read_jsonl(path)
    if not rows:
        raise UserError(f"{path} holds no prompt, and an online run has nothing to answer; run `dvc repro scorer`.")
    return [Prompt(row["id"], row["prompt_ids"], row["prompt"]) for row in rows]


class PromptOrder:
    """The prompts of each step: passes over all of them, each in an order of its own, drawn from the seed.

    What a pass leaves over, less than a step's, waits for the next: every step has different prompts.

    Raises:
        UserError: there are fewer prompts than a step needs.
    """

    def __init__(self, prompts: Sequence[Prompt], per_step: int, seed: int) -> None:
        if len(prompts) < per_step:
            raise UserError(
                f"The training data have {len(prompts)} different prompts, fewer than a step's {per_step}; lower this "
                "run's prompts_per_step in params.yaml."
            )
        self.prompts, self.per_step, self.seed = prompts, per_step, seed
        self.steps_of_a_pass = len(prompts) // per_step

    def of_step(self, step: int) -> list[Prompt]:
        """The prompts of step `step`; the first is 0."""
        number, place = divmod(step, self.steps_of_a_pass)
        order = np.random.default_rng([self.seed, number]).permutation(len(self.prompts))
        return [self.prompts[row] for row in order[place * self.per_step : (place + 1) * self.per_step]]


def seeds_of(seed: int, step: int | str, prompts: Sequence[Prompt], k: int) -> list[int]:
    """64-bit seeds of k answers to each prompt, those of a prompt side by side."""
    keys = [json.dumps(["online", seed, step, prompt.id, number]) for prompt in prompts for number in range(k)]
    return [int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") for key in keys]
