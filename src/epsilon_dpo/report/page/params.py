"""`report`: which comparison the page shows."""

from typing import Annotated, Any

from pydantic import Field

from epsilon_dpo.pipeline.stage.params import Strict
from epsilon_dpo.pipeline.stage.runs import RunName


class Report(Strict):
    examples: Annotated[int, Field(ge=0)]  # prompts whose answers are shown side by side


class ReportBlock(Strict):
    """The block of its own."""

    report: Report


class ReportView(ReportBlock):
    """What stages/report.py reads: the runs named here, and no others, are in the report.

    Other stages' blocks are only named on the page, so they stand here as params.yaml has them: their rooms would be
    dependencies for nothing else, and stage check has validated them.
    """

    runs: Annotated[dict[RunName, dict[str, Any]], Field(min_length=1)]
    base: dict[str, Any]
    margins: dict[str, Any] | None
    scorer: dict[str, Any] | None

    @property
    def base_name(self) -> str:
        """The model that SFT started from, or that is the reference itself."""
        if self.base["source"] != "pretrained":
            return "the embedded model"
        path, revision = self.base["path"], self.base["revision"]
        return f"{path} at {revision[:8]}" if revision else path
