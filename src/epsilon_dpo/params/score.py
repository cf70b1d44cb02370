"""`score`: judging a policy's answers against the chosen ones and against the reference's."""

from typing import Annotated

from pydantic import Field

from epsilon_dpo.params.strict import Seed, Strict, Threads


class Score(Strict):
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)]  # of the intervals


class ScoreView(Strict):
    """What stages/score.py and stages/controls.py read."""

    seed: Seed
    threads: Threads
    score: Score
