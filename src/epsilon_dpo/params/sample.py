"""`sample`: answers to the held-out prompts; `reference` samples the SFT policy under the same numbers."""

from typing import Annotated, Literal

from pydantic import Field

from epsilon_dpo.params.strict import Seed, Strict, Threads


class Sample(Strict):
    turns: Literal["single", "all"]  # single: only prompts of one user turn, the DPO paper's setting
    max_prompts: Annotated[int, Field(ge=2)] | None  # null: all
    samples_per_prompt: Annotated[int, Field(ge=1)]  # independent answers; several cut the noise of sampling
    temperature: Annotated[float, Field(gt=0.0)]
    max_new_tokens: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]


class SampleView(Strict):
    """What stages/sample.py and stages/reference.py read."""

    seed: Seed
    threads: Threads
    sample: Sample
