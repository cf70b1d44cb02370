"""Runs that repeat a training with another seed, as params.yaml states them."""

from pathlib import Path

import pytest

from epsilon_dpo.check.params_file import load_file
from epsilon_dpo.pipeline.observability.errors import UserError

PARAMS = Path(__file__).resolve().parent.parent / "params.yaml"


def with_runs(tmp_path: Path, *runs: str) -> Path:
    blocks = PARAMS.read_text("utf-8").split("\nruns:\n")[0]
    assert "\nseed: 17\n" in blocks
    path = tmp_path / "params.yaml"
    path.write_text("\n".join([blocks, "runs:", *(f"  {run}" for run in runs), ""]), "utf-8")
    return path


def test_a_run_may_be_trained_with_other_seeds(tmp_path: Path) -> None:
    file = with_runs(
        tmp_path, "a: {method: dpo, beta: 0.3}", "b: {method: dpo, beta: 0.3, seed: 18}", "c: {method: dpo, beta: 0.1}"
    )
    assert list(load_file(file).runs) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "config",
    [
        "beta: 0.3",
        "beta: 0.3, seed: 17",  # the pipeline's
        "beta: 0.3, seed: null, learning_rate: null, label_smoothing: 0.0",  # defaults
        "beta: 0.3, snapshot_epochs: 0.2",  # keeps more of the same policy
    ],
)
def test_the_same_training_twice_is_refused(tmp_path: Path, config: str) -> None:
    """The report would take it for two seeds that agree."""
    file = with_runs(tmp_path, "a: {method: dpo, beta: 0.3}", f"b: {{method: dpo, {config}}}")
    with pytest.raises(UserError, match=r"runs\.a and runs\.b are the same training.* give one of them another seed"):
        load_file(file)


def test_a_seed_that_numpy_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"runs\.a\.seed = -1 is refused"):
        load_file(with_runs(tmp_path, "a: {method: dpo, beta: 0.3, seed: -1}"))
