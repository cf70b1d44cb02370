"""presets/all-methods.yaml as a user runs it: every method from its line to its row in the report."""

import csv
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from whole_pipeline import all_stages, copy_project, metrics_of, repro

from epsilon_dpo.pipeline.stage.params import read_yaml

pytestmark = [pytest.mark.slow, pytest.mark.campaign]

# The true win rate against SFT of 256 answers when the preset's hyperparameters were chosen; 95 % intervals reach .05
# to .06 to either side. All but the last two lie above one half with theirs; the preset says why those do not.
SEEN = {
    "dpo": 0.783,
    "dpo_conservative": 0.758,
    "dpo_robust": 0.723,
    "dpo_flip_likelihood": 0.738,
    "dpo_forward_kl": 0.611,
    "epsilon_dpo": 0.773,
    "epsilon_dpo_bf16": 0.773,
    "beta_dpo": 0.727,
    "tr_dpo_hard": 0.734,
    "tr_dpo_soft": 0.779,
    "r_dpo": 0.744,
    "ipo": 0.729,
    "kto": 0.691,
    "dpo_norm": 0.715,
    "alpha_dpo": 0.682,
    "gamma_po_simpo": 0.666,
    "gamma_po_dpo": 0.771,
    "amapo": 0.658,
    "apo_zero": 0.715,
    "apo_down": 0.672,
    "wpo_aligned": 0.791,
    "wpo_plain": 0.793,
    "tdpo_1": 0.762,
    "tdpo_2": 0.715,
    "madpo": 0.771,
    "simpo": 0.695,
    "slic_hf": 0.727,
    "orpo": 0.654,
    "pairwise_cringe": 0.615,
    "cpo": 0.590,
    "rrhf": 0.469,
    "binary_cringe": 0.482,
}
NOT_CLEARLY_ABOVE = {"cpo", "rrhf", "binary_cringe"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preset's DAG, run once."""
    project = copy_project(tmp_path_factory.mktemp("all_methods"))
    shutil.copy(project / "presets" / "all-methods.yaml", project / "params.yaml")
    assert set(repro(project)) == all_stages(project)
    return project


def test_the_report_has_every_run(project: Path) -> None:
    runs = list(read_yaml(project / "params.yaml")["runs"])
    assert set(runs) == set(SEEN) and len(runs) == 32
    report = project / "out" / "report"
    with (report / "runs.csv").open(encoding="utf-8") as file:
        assert [row["run"] for row in csv.DictReader(file)] == ["sft", *runs]
    page = (report / "report.html").read_text("utf-8")
    assert all(f'<tr><th scope="row">{run}</th>' in page for run in runs)
    assert "496 pairs of runs" in page


@pytest.mark.parametrize("run", SEEN)
def test_a_run_wins_as_often_as_it_did(project: Path, run: str) -> None:
    """By the true scorer: the rate seen lies within the interval found, wherever arithmetic rounds differently."""
    score = metrics_of(project, f"score/{run}")
    assert score["true_win_rate/sft_low"] <= SEEN[run] <= score["true_win_rate/sft_high"]
    if run not in NOT_CLEARLY_ABOVE:
        assert score["true_win_rate/sft_low"] > 0.5


@pytest.mark.parametrize("run", SEEN)
def test_every_number_is_finite(project: Path, run: str) -> None:
    files = [file for file in (project / "out").rglob("*.json*") if run in file.relative_to(project).parts]
    names = {file.relative_to(project / "out").parts[0] + "/" + file.name for file in files}
    assert {"align/metrics.jsonl", "align/metrics.json", "score/records.jsonl", "kl/metrics.json"} <= names
    for file in files:
        lines = file.read_text("utf-8").splitlines() if file.suffix == ".jsonl" else [file.read_text("utf-8")]
        for line in lines:
            assert all(math.isfinite(number) for number in leaves(json.loads(line))), file


def leaves(value: Any) -> Iterator[float]:
    """The numbers in a JSON value."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from leaves(part)
    elif isinstance(value, int | float):
        yield value
