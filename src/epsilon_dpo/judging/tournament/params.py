"""`tournament`: every run against every other."""

from typing import Annotated, Any

from pydantic import Field

from epsilon_dpo.pipeline.stage.params import Confidence, Seed, Strict, Threads
from epsilon_dpo.pipeline.stage.runs import RunName


class Tournament(Strict):
    max_prompts: Annotated[int, Field(ge=2)] | None  # null: all; n runs make n (n - 1) / 2 pairs on each


class TournamentView(Strict):
    """What stages/tournament.py reads."""

    seed: Seed
    threads: Threads
    confidence: Confidence
    runs: Annotated[dict[RunName, dict[str, Any]], Field(min_length=1)]
    tournament: Tournament
