"""`tokens`: length limits of a tokenised pair, shared by validate, sft and pairs."""

from typing import Annotated

from pydantic import Field, model_validator

from epsilon_dpo.pipeline.stage.params import Strict


class Tokens(Strict):
    """A prompt is never cut (validate refuses it); a completion is cut on the right at `max_length`."""

    max_prompt_length: Annotated[int, Field(ge=1)]
    max_length: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _room_for_an_answer(self) -> "Tokens":
        if self.max_prompt_length >= self.max_length:
            raise ValueError("max_length must exceed max_prompt_length, or no completion token is left")
        return self
