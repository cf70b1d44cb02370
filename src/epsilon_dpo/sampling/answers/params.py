"""`sample`: answers to the held-out prompts; `reference` samples the SFT policy with the same settings."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from epsilon_dpo.pipeline.stage.params import Seed, Strict, Threads
from epsilon_dpo.sampling.decoding.params import Stop

GREEDY = 1.0e-9  # a temperature at which noise decides only between tokens whose logits are equal but for rounding
VLLM_COLDEST = 0.01  # vLLM raises what lies between 0, its greedy, and this to this
VLLM_HOTTEST = 2.0  # vLLM refuses more since 0.24 (its #44965)


class Logits(Strict):
    """What shapes the distribution of the next token beside the temperature, as transformers' `generate` does it.

    Each cuts or bends the policy's distribution, so that a KL over such answers is not the policy's (analysis/kl).
    """

    top_p: Annotated[float, Field(gt=0.0, le=1.0)]  # 1.0: off, as null is below
    top_k: Annotated[int, Field(ge=1)] | None
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] | None
    repetition_penalty: Annotated[float, Field(gt=0.0)]  # of tokens of the prompt or the answer so far; 1.0: off

    def in_use(self) -> dict[str, float]:
        """Those that change the distribution, in the order in which they are applied (the penalty comes first)."""
        neutral = {"repetition_penalty": (1.0,), "top_k": (None,), "top_p": (1.0,), "min_p": (None, 0.0)}
        return {name: getattr(self, name) for name, off in neutral.items() if getattr(self, name) not in off}


class Sampler(Strict):
    """How answers are drawn, here and in `candidates`."""

    samples_per_prompt: Annotated[int, Field(ge=1)]  # independent answers; several cut the noise of sampling
    temperature: Annotated[float, Field(ge=GREEDY, le=100.0)]  # at the smallest, greedy
    logits: Logits
    stop: Stop
    max_new_tokens: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    backend: Literal["transformers", "vllm"]  # vllm: in an environment of its own, `make vllm`

    @model_validator(mode="after")
    def _both_backends_cut_alike(self) -> Self:
        cuts = self.logits.in_use()
        if self.backend == "vllm" and "min_p" in cuts and {"top_k", "top_p"} & cuts.keys():
            raise ValueError(
                "vLLM applies min_p before top_k and top_p, transformers after them; use min_p without the others, or "
                "backend: transformers"
            )
        return self

    @model_validator(mode="after")
    def _both_backends_are_as_cold_and_as_hot(self) -> Self:
        if self.backend == "vllm" and GREEDY < self.temperature < VLLM_COLDEST:
            raise ValueError(
                f"vLLM samples at {VLLM_COLDEST:g} in place of temperature {self.temperature:g}; write {GREEDY:.1e}, "
                f"which is greedy, {VLLM_COLDEST:g} or more, or backend: transformers"
            )
        if self.backend == "vllm" and self.temperature > VLLM_HOTTEST:
            raise ValueError(f"vLLM takes no temperature above {VLLM_HOTTEST:g}; lower it, or backend: transformers")
        return self


class Sample(Sampler):
    turns: Literal["single", "all"]  # single: only prompts of one user turn, the DPO paper's setting
    max_prompts: Annotated[int, Field(ge=2)] | None  # null: all


class SampleView(Strict):
    """What stages/sample.py and stages/reference.py read."""

    seed: Seed
    threads: Threads
    sample: Sample
