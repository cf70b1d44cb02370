"""A stage without its MLflow run."""

from typing import Any

import pytest


class Untracked:
    """In the place of the MLflow run, which has its own tests and a process of its own to start."""

    def __init__(self, *_: Any) -> None: ...

    def __enter__(self) -> "Untracked":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None: ...

    def log_to_policy(self, policy_sha256: str, metrics: dict[str, float], run: str | None = None) -> None: ...

    def set_tags(self, tags: dict[str, str]) -> None: ...


def run_untracked(monkeypatch: pytest.MonkeyPatch, tracker: type = Untracked) -> None:
    """Stages that run in this process have `tracker` for their MLflow run, and start no process for one."""
    monkeypatch.setattr("epsilon_dpo.pipeline.stage.execution.Tracker", tracker)
    monkeypatch.setattr("epsilon_dpo.pipeline.stage.execution.start_early", lambda leader: None)
