"""`report`: which comparison the page shows."""

from typing import Annotated, Any

from pydantic import Field

from epsilon_dpo.judging.margins.params import Margins
from epsilon_dpo.judging.scorer.params import Scorer
from epsilon_dpo.models.base.params import Base, PretrainedModel
from epsilon_dpo.pipeline.runs.runs import RunName
from epsilon_dpo.pipeline.stage.params import Strict


class Report(Strict):
    examples: Annotated[int, Field(ge=0)]  # prompts whose answers are shown side by side


class ReportView(Strict):
    """What stages/report.py reads: the runs named here, and no others, are in the report."""

    runs: Annotated[dict[RunName, dict[str, Any]], Field(min_length=1)]
    report: Report
    base: Base
    margins: Margins | None
    scorer: Scorer | None

    @property
    def base_name(self) -> str:
        """The model that SFT started from, or that is the reference itself."""
        if not isinstance(self.base, PretrainedModel):
            return "the embedded model"
        return f"{self.base.path} at {self.base.revision[:8]}" if self.base.revision else self.base.path
