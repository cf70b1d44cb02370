"""`report`: which comparison the page shows."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from epsilon_dpo.pipeline.stage.manifest import portable
from epsilon_dpo.pipeline.stage.params import Strict
from epsilon_dpo.pipeline.stage.runs import RunName


class Report(Strict):
    examples: Annotated[int, Field(ge=0)]  # prompts whose answers are shown side by side


class ReportBlock(Strict):
    """The block of its own."""

    report: Report


class Named(BaseModel):
    """What the page says of another stage's block; the rest is that stage's, whose room is no dependency here."""

    source: str
    path: str = ""
    revision: str | None = None


class ReportView(ReportBlock):
    """What stages/report.py reads: the runs named here, and no others, are in the report."""

    runs: Annotated[dict[RunName, dict[str, Any]], Field(min_length=1)]
    base: Named
    margins: Named | None
    scorer: Named | None

    @property
    def base_name(self) -> str:
        """The model that SFT started from, or that is the reference itself."""
        if self.base.source != "pretrained":
            return "the embedded model"
        return f"{self.base.path} at {self.base.revision[:8]}" if self.base.revision else str(portable(self.base.path))
