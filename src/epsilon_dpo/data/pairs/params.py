"""`pairs`: where the preference pairs of the alignment come from."""

from typing import Annotated, Literal

from pydantic import Field

from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.pipeline.stage.params import Strict

Choice = Literal["best_worst", "best_against_rest", "all"]  # see pairs.preference_pairs


class DatasetPairs(Strict):
    """The dataset's own."""

    source: Literal["dataset"]


class OnPolicyPairs(Strict):
    """The reference's answers to the training prompts, ranked by the teacher; evaluation pairs stay the dataset's."""

    source: Literal["on_policy"]
    choose: Choice
    min_margin: Annotated[float, Field(ge=0.0)]  # of the judge's scores; closer answers make no pair


class PairsView(Strict):
    """What stages/pairs.py reads."""

    tokens: Tokens
    pairs: Annotated[DatasetPairs | OnPolicyPairs, Field(discriminator="source")]
