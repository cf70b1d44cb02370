"""What the replication study of this repository says of the paper's claims: of other runs than those of the page."""

from dataclasses import dataclass
from pathlib import Path

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row, read_json

COLUMNS = {"claim", "level", "value", "low", "high", "unit", "n", "verdict", "note", "post_hoc"}


@dataclass(frozen=True)
class Replication:
    """The study's claims as rows of a table, and the settings in which they are measured.

    Attributes:
        claims: those that were measured, or that a test holds; also where a replicate had no value.
        not_run: how many others there are.
        levels: `title` and `replicates` (such as 5 of 8) of each setting, by name.
    """

    confidence: float
    levels: dict[str, dict[str, str]]
    claims: list[Row]
    not_run: int


NONE = Replication(0.95, {}, [], 0)


def read_replication(file: Path) -> Replication:
    """The file that `epsilon-dpo study page` writes.

    Raises:
        UserError: it is another one, or there is none.
    """
    try:
        content = read_json(file)
        rows: list[Row] = content["claims"]
        levels, confidence = dict(content["levels"]), float(content["confidence"])
        if any(not set(row) >= COLUMNS or row["level"] not in {None, *levels} for row in rows):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{file} is not what the study says; `epsilon-dpo study page` writes it anew.") from None
    told = [row for row in rows if row["verdict"] != "not run"]
    return Replication(confidence, levels, told, len(rows) - len(told))
