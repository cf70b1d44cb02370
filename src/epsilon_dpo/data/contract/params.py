"""`validate`: the data contract, and what happens to a row that breaks it."""

from typing import Annotated, Literal

from pydantic import Field

from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.pipeline.stage.params import Strict

OnFailure = Literal["stop", "drop"]
OnDoubt = Literal["stop", "drop", "report"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class RowExpectations(Strict):
    """What to do with rows that break an expectation: `drop` lists them in dropped.jsonl, `stop` ends the pipeline."""

    sides_not_empty: OnFailure
    sides_differ: OnFailure
    same_prompt: OnFailure
    roles_alternate: OnFailure
    no_special_tokens_in_text: OnFailure
    splits_share_no_prompt: OnFailure  # the training row goes, the evaluation row stays
    splits_share_no_near_prompt: OnDoubt  # nearly the same: a person has to look, so `report` only counts and lists
    text_survives_template: OnFailure
    one_bos: OnFailure
    prompt_ids_are_prefix: OnFailure
    stop_token_ends_answer: OnFailure
    prompt_fits: OnFailure
    sides_differ_after_truncation: OnFailure


class Validate(Strict):
    on_failure: RowExpectations
    max_dropped_share: Share  # more than this share of a split dropped: stop
    max_truncated_share: Share  # of a split's completions cut at max_length: stop
    min_train_pairs: Annotated[int, Field(ge=1)]
    min_eval_pairs: Annotated[int, Field(ge=1)]


class ValidateView(Strict):
    """What stages/validate.py reads."""

    tokens: Tokens
    contract: Validate = Field(alias="validate")  # pydantic's own models have an attribute `validate`
