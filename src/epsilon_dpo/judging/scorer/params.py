"""`scorer`: who scores the answers that online runs (methods rloo, ppo) draw."""

from typing import Annotated, Literal

from pydantic import Field

from epsilon_dpo.pipeline.stage.params import Strict

# Sources of the block `judge` that compare two answers and have no number for one.
PAIRWISE_JUDGES = ("trained", "pretrained", "llm")


class Scorer(Strict):
    source: Literal["true_reward", "judge"]  # true_reward: of generated data alone
    clip: Annotated[float, Field(gt=0.0)] | None = None  # scores are cut to [-clip, clip]; null: as they are


class ScorerView(Strict):
    """What stages/scorer.py reads."""

    scorer: Scorer | None  # null: no run is online
