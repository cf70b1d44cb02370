"""The rows that the report asks MLflow for carry what the stage align records itself."""

from collections.abc import Callable
from pathlib import Path

import pytest

from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.report.page.results import read_results
from epsilon_dpo.report.page.tracked import _locked_params, compared_policies

ROOT = Path(__file__).resolve().parents[3]


def test_a_row_has_the_values_of_its_stage(outputs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    run = read_yaml(ROOT / "params.yaml")["runs"]["dpo"]
    (row,) = compared_policies(read_results(outputs(dpo=[1.0, 0.0]), {"dpo": run}))
    assert row["run"] == "dpo" and row["policy_sha256"].startswith("dpo0")
    assert row["params"]["runs.dpo"] == run and "align" in row["params"] and "seed" in row["params"]
    assert row["metrics"]["kl_fwd_rb"] == 2.0 and row["metrics"]["win_rate/chosen"] == 0.5
    places = {name: row["metrics"][name] for name in row["metrics"] if "place" in name}
    assert places == {"place_first": 1, "place_last": 2, "true_place_first": 3, "true_place_last": 3}
    assert [step["step"] for step in row["curve"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("left", ["", "  align@dpo:\n", "  align@dpo:\n    params:\n", "  align@other: {}\n"])
def test_a_dvc_lock_that_is_being_written_says_of_no_policy_how_it_was_trained(tmp_path: Path, left: str) -> None:
    """As for `make ui` beside a `dvc repro`."""
    (tmp_path / "dvc.lock").write_text(f"stages:\n{left}")
    assert _locked_params(read_yaml(tmp_path / "dvc.lock").get("stages"), "dpo") is None
