"""Outputs that do not belong together must not be compared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_jsonl, write_jsonl
from epsilon_dpo.report.page.results import read_results

Runs = dict[str, dict[str, Any]]


def test_parts_of_different_policies_are_refused(outputs: Callable[..., Path], runs: Runs) -> None:
    out = outputs()
    file = out / "kl/mine/metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"policy_sha256": "another"}), "utf-8")
    with pytest.raises(UserError, match="out/kl/mine are of different policies; run `dvc repro`"):
        read_results(out, runs)


def test_a_tournament_of_other_runs_is_refused(outputs: Callable[..., Path], runs: Runs) -> None:
    """One that a run has left, or has not yet joined."""
    with pytest.raises(UserError, match="out/tournament ranks other policies than the runs"):
        read_results(outputs(dpo=[1.0], mine=[0.0], gone=[0.5]), runs)


def test_answers_to_other_prompts_are_refused(outputs: Callable[..., Path], runs: Runs) -> None:
    out = outputs()
    file = out / "sample/dpo/samples.jsonl"
    write_jsonl(file, list(reversed(read_jsonl(file))))
    with pytest.raises(UserError, match="out/sample/dpo answers other prompts"):
        read_results(out, runs)
