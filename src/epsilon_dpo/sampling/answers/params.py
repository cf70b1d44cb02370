"""`sample`: answers to the held-out prompts; `reference` samples the SFT policy with the same settings."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from epsilon_dpo.pipeline.stage.params import Seed, Strict, Threads


class Sampler(Strict):
    """How answers are drawn, here and in `candidates`."""

    samples_per_prompt: Annotated[int, Field(ge=1)]  # independent answers; several cut the noise of sampling
    temperature: Annotated[float, Field(gt=0.0)]
    max_new_tokens: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    backend: Literal["transformers", "vllm"]  # vllm: in an environment of its own, `make vllm`
    processes: Annotated[int, Field(ge=1)]  # a GPU each, if there are GPUs

    @model_validator(mode="after")
    def _vllm_is_one_process(self) -> Self:
        if self.backend == "vllm" and self.processes > 1:
            raise ValueError("backend: vllm samples in one process; set processes: 1")
        return self


class Sample(Sampler):
    turns: Literal["single", "all"]  # single: only prompts of one user turn, the DPO paper's setting
    max_prompts: Annotated[int, Field(ge=2)] | None  # null: all


class SampleView(Strict):
    """What stages/sample.py and stages/reference.py read."""

    seed: Seed
    threads: Threads
    sample: Sample
