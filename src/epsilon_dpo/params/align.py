"""`align`: what all runs share, and the entry of one run.

A run's own numbers belong to its method and are typed there (methods/<method>.py); this file knows no method.
"""

from typing import Annotated, Any

from pydantic import Field

from epsilon_dpo.params.strict import Strict
from epsilon_dpo.params.training import Accelerated

# `params: [runs.${key}]` in dvc.yaml breaks on a dot; MLflow and file names dislike the rest.
RunName = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]


class Align(Accelerated):
    logps_token_chunk: Annotated[int, Field(ge=1)]  # completion tokens whose logits exist at once in the log-prob head


class AlignView(Strict):
    """What stages/align.py reads; of `runs`, only the entry of its own run."""

    seed: int
    threads: int
    align: Align
    runs: dict[RunName, dict[str, Any]]
