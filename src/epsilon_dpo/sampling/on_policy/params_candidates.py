"""`candidates`: the reference's own answers to the training prompts, for on-policy pairs."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from epsilon_dpo.pipeline.stage.params import Seed, Strict, Threads
from epsilon_dpo.sampling.answers.params import GREEDY, Sampler


class Candidates(Sampler):
    samples_per_prompt: Annotated[int, Field(ge=2)]  # 5 in SimPO's sets, at a temperature of 0.8
    max_prompts: Annotated[int, Field(ge=1)] | None  # null: all training prompts

    @model_validator(mode="after")
    def _answers_to_a_prompt_can_differ(self) -> Self:
        """Else no pair comes of them, which stage `pairs` would say after all of them are drawn and ranked."""
        greedy = {
            f"temperature {GREEDY:.1e}": self.temperature == GREEDY,
            "logits.top_k 1": self.logits.top_k == 1,
            "logits.min_p 1.0": self.logits.min_p == 1.0,  # no token but the likeliest is as likely as that
        }
        if found := " and ".join(setting for setting, true in greedy.items() if true):
            raise ValueError(
                f"candidates are greedy ({found}), so that all answers to a prompt are one; raise temperature or "
                "top_k, or lower min_p"
            )
        return self


class CandidatesView(Strict):
    """What stages/candidates.py reads."""

    seed: Seed
    threads: Threads
    candidates: Candidates | None  # null: pairs come from the dataset
