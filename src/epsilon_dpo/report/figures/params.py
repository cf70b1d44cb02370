"""`figures`: the paper's figures and tables from the runs of params.yaml."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from epsilon_dpo.pipeline.stage.params import Confidence, Seed, Strict
from epsilon_dpo.pipeline.stage.runs import RunName


class Figures(Strict):
    pairs_of: RunName | None  # whose evaluation pairs are quoted (the paper's: of DPO with beta 0.1); null: the first's
    smoothing: Annotated[float, Field(ge=0.0, lt=1.0)]  # weight of the past in the moving average of a step's ratios


class FiguresView(Strict):
    """What stages/figures.py reads."""

    seed: Seed
    confidence: Confidence
    runs: Annotated[dict[RunName, dict[str, Any]], Field(min_length=1)]
    figures: Figures

    @model_validator(mode="after")
    def _pairs_are_of_a_run(self) -> "FiguresView":
        if self.figures.pairs_of is not None and self.figures.pairs_of not in self.runs:
            raise ValueError(f"figures.pairs_of: {self.figures.pairs_of} is none of the runs; name one, or write null")
        return self
