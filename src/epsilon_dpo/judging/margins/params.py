"""`margins`: who says how far apart the two answers of a pair are, for the methods that need scores (MADPO)."""

from typing import Annotated, Literal

from pydantic import Field

from epsilon_dpo.pipeline.stage.params import Strict, Threads


class Margins(Strict):
    source: Literal["judge", "true_reward"]  # true_reward: of generated data alone, an upper bound
    temperature: Annotated[float, Field(gt=0.0)] | None  # margins are divided by it; null: fitted on held-out labels


class MarginsView(Strict):
    """What stages/margins.py reads."""

    threads: Threads
    margins: Margins | None  # null: no margins, and nothing is judged
