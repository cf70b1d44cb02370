"""What ends an answer, in the block of whoever draws it."""

from typing import Annotated

from pydantic import Field

from epsilon_dpo.pipeline.stage.params import Strict


class Stop(Strict):
    """What ends an answer beside `base.stop_token`; it is not part of the answer's text."""

    tokens: list[Annotated[str, Field(min_length=1)]]  # as text, each one token of the vocabulary
    strings: list[Annotated[str, Field(min_length=1)]]
