"""`sample`: answers to the held-out prompts; `reference` samples the SFT policy with the same settings."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

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

    @field_validator("temperature", mode="before")
    @classmethod
    def _greedy_is_written_as_a_small_one(cls, value: Any) -> Any:
        if value == 0 and not isinstance(value, bool):
            raise ValueError(f"logits are divided by it; write {GREEDY:.1e}, at which decoding is greedy")
        return value

    @model_validator(mode="after")
    def _several_answers_to_a_prompt_can_differ(self) -> Self:
        """Else the same one is drawn and judged again and again; the best of them is no better, and no pair comes of
        them, which stage `pairs` would say after all are drawn and ranked."""
        greedy = {
            f"temperature {GREEDY:.1e}": self.temperature == GREEDY,
            "logits.top_k 1": self.logits.top_k == 1,
            "logits.min_p 1.0": self.logits.min_p == 1.0,  # no token but the likeliest is as likely as that
        }
        found = " and ".join(setting for setting, true in greedy.items() if true)
        if found and self.samples_per_prompt > 1:
            raise ValueError(
                f"the answers are greedy ({found}), so that all {self.samples_per_prompt} answers to a prompt are one; "
                "raise temperature or top_k, lower min_p, or (under sample) set samples_per_prompt to 1"
            )
        return self

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
