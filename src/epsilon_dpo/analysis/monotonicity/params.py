"""`monotonicity`: what ε-DPO would decide on the evaluation pairs under a trained policy."""

from typing import Annotated

from pydantic import Field

from epsilon_dpo.pipeline.stage.params import Confidence, Strict, Threads


class Monotonicity(Strict):
    epsilon: Annotated[float, Field(gt=0.0, lt=1.0)]  # of the perturbation; the paper's figure has 0.01
    batch_size: Annotated[int, Field(ge=1)]  # pairs at once
    token_chunk: Annotated[int, Field(ge=1)]  # completion tokens in a tile of logits, a handful of which exist at once


class MonotonicityView(Strict):
    """What stages/monotonicity.py reads."""

    threads: Threads
    confidence: Confidence
    monotonicity: Monotonicity
