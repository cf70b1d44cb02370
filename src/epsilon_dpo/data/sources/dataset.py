"""What stage `fetch` hands on, whatever the source."""

from dataclasses import dataclass
from typing import Any

from epsilon_dpo.pipeline.stage.files import Row


@dataclass(frozen=True)
class Dataset:
    """Preference pairs as entire dialogues (TRL's conversational format, implicit prompt), the source's defects kept.

    Attributes:
        train, eval: no prompt is in both, unless the source's own two files share one (stage `validate` looks).
        facts: content of dataset.json about the origin beside the row counts: source, revision, file hashes, ...
    """

    train: list[Row]
    eval: list[Row]
    facts: dict[str, Any]
