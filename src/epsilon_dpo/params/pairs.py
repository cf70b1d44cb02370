"""`pairs`: where the preference pairs of the alignment come from."""

from typing import Literal

from epsilon_dpo.params.strict import Strict
from epsilon_dpo.params.tokens import Tokens


class Pairs(Strict):
    source: Literal["dataset"]


class PairsView(Strict):
    """What stages/pairs.py reads."""

    tokens: Tokens
    pairs: Pairs
