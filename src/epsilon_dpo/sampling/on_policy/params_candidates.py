"""`candidates`: the reference's own answers to the training prompts, for on-policy pairs."""

from typing import Annotated

from pydantic import Field

from epsilon_dpo.pipeline.stage.params import Seed, Strict, Threads
from epsilon_dpo.sampling.answers.params import Sampler


class Candidates(Sampler):
    samples_per_prompt: Annotated[int, Field(ge=2)]  # 5 in SimPO's sets, at a temperature of 0.8
    max_prompts: Annotated[int, Field(ge=1)] | None  # null: all training prompts


class CandidatesView(Strict):
    """What stages/candidates.py reads."""

    seed: Seed
    threads: Threads
    candidates: Candidates | None  # null: pairs come from the dataset
