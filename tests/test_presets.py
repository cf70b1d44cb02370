"""Every params file that is shipped is valid to the last number."""

from pathlib import Path

import pytest

from epsilon_dpo.params.file import load_file

ROOT = Path(__file__).resolve().parent.parent
FILES = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.y*ml"))]


def test_all_files_are_found() -> None:
    assert [file.name for file in FILES] == ["params.yaml", "hh-gemma-2-2b.yaml", "hh-local.yaml"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file_is_valid(file: Path) -> None:
    assert load_file(file).runs


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
