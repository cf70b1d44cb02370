"""`kl`: the distance of a policy from the reference."""

from typing import Annotated

from pydantic import Field

from epsilon_dpo.pipeline.stage.params import Confidence, Strict, Threads


class KL(Strict):
    batch_size: Annotated[int, Field(ge=1)]
    token_chunk: Annotated[int, Field(ge=1)]  # completion tokens in a tile of logits, a handful of which exist at once


class KLView(Strict):
    """What stages/kl.py reads."""

    threads: Threads
    confidence: Confidence
    kl: KL
