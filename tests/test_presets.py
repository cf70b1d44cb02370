"""Every params file that is shipped is valid to the last number."""

from pathlib import Path

import pytest

from epsilon_dpo.check.params_file import load_file
from epsilon_dpo.methods.registry import method_names
from epsilon_dpo.pipeline.stage.params import read_yaml

ROOT = Path(__file__).resolve().parent.parent
FILES = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.y*ml"))]


def test_all_files_are_found() -> None:
    presets = ["all-methods.yaml", "hh-gemma-2-2b.yaml", "hh-local.yaml", "on-policy.yaml", "pareto.yaml"]
    assert [file.name for file in FILES] == ["params.yaml", *presets]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file_is_valid(file: Path) -> None:
    assert load_file(file).runs


def test_every_method_has_a_run_to_copy() -> None:
    """In presets/all-methods.yaml, or in params.yaml, where a new method of one's own gets its line."""
    files = (ROOT / "params.yaml", ROOT / "presets" / "all-methods.yaml")
    assert {run["method"] for file in files for run in read_yaml(file)["runs"].values()} == set(method_names())


def test_all_methods_is_the_default_with_other_runs() -> None:
    """Then DVC takes the data, the judge and the SFT model of the one for the other; no two runs are the same."""
    default, preset = (read_yaml(ROOT / name) for name in ("params.yaml", "presets/all-methods.yaml"))
    default["tournament"]["max_prompts"] = preset["tournament"]["max_prompts"]  # pairs of runs grow with their square
    assert {key: default[key] for key in default if key != "runs"} == {
        key: preset[key] for key in preset if key != "runs"
    }
    runs = [sorted(run.items()) for run in preset["runs"].values()]
    assert len(runs) == 18 and all(run not in runs[:number] for number, run in enumerate(runs))


def test_hh_gemma_is_the_papers_grid() -> None:
    """Appendix B.2 and table 4 of the paper: four methods at four values of beta, batch 128."""
    params = load_file(ROOT / "presets" / "hh-gemma-2-2b.yaml")
    grid = {(run["method"], run.get("update"), run["beta"]) for run in params.runs.values()}
    methods = [("dpo", None), ("epsilon_dpo", None), ("tr_dpo", "hard"), ("tr_dpo", "soft")]
    assert grid == {(*method, beta) for method in methods for beta in (0.01, 0.05, 0.1, 0.5)}
    assert len(params.runs) == 16
    for block in (params.sft, params.align):
        assert block.per_device_train_batch_size * block.gradient_accumulation_steps == 128
    assert (params.sft.learning_rate, params.align.learning_rate) == (2.0e-5, 1.0e-6)
