"""`kl`: the distance of a policy from the reference."""

from typing import Annotated

from pydantic import Field

from epsilon_dpo.params.strict import Strict, Threads


class KL(Strict):
    batch_size: Annotated[int, Field(ge=1)]
    token_chunk: Annotated[int, Field(ge=1)]  # completion tokens whose logits exist at once
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)]  # of the intervals of the means


class KLView(Strict):
    """What stages/kl.py reads."""

    threads: Threads
    kl: KL
