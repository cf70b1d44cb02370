"""MLflow, and the only importer of it."""

from pathlib import Path
from types import TracebackType
from typing import Any


class Tracker:
    """One MLflow run."""

    def __init__(self, name: str, fingerprint: str, params: dict[str, Any], inputs: dict[str, str]) -> None:
        self.name = name

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Numbers of this run, by name; `step` counts optimizer steps."""

    def log_artifact(self, path: Path) -> None:
        """A file or folder kept with this run."""

    def set_tags(self, tags: dict[str, str]) -> None:
        """Text by which runs are found and filtered."""

    def log_to_policy(self, policy_sha256: str, metrics: dict[str, float]) -> None:
        """Numbers about a policy, written also on the row of the align run that made it."""
