"""`align`: what all runs share, and the entry of one run.

A run's own config belongs to its method and is typed there (methods/<method>.py); this file knows no method.
"""

from typing import Annotated, Any

from pydantic import Field, model_validator

from epsilon_dpo.pipeline.stage.params import Seed, Strict, Threads
from epsilon_dpo.pipeline.stage.runs import RunName
from epsilon_dpo.training.loop.params import Adaptable


class Align(Adaptable):
    logps_token_chunk: Annotated[int, Field(ge=1)]  # completion tokens in a tile of logits, a handful of which exist
    share_prompt: bool  # one row [prompt, chosen, rejected] per pair instead of two; the same values up to rounding

    @model_validator(mode="after")
    def _no_dropout_is_compared(self) -> "Align":
        if self.lora is not None and self.lora.lora_dropout:
            raise ValueError(
                "lora.lora_dropout must be 0.0 in align, where policy and reference are compared without dropout; in "
                "sft it may be more"
            )
        return self


class AlignView(Strict):
    """What stages/align.py reads; of `runs`, only the entry of its own run."""

    seed: Seed
    threads: Threads
    align: Align
    runs: Annotated[dict[RunName, dict[str, Any]], Field(min_length=1)]
