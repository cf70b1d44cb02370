"""Where the policies of a run are."""

from pathlib import Path

from epsilon_dpo.pipeline.stage.runs import policy_paths


def test_snapshots_come_by_step_also_beyond_the_digits_of_their_names(tmp_path: Path) -> None:
    """As text the thirteen-hundred-thousandth step comes before the nine-hundred-thousandth."""
    by_step = [f"snapshots/{step}" for step in ("000040", "900000", "1300000", "12000000")]
    for place in reversed(by_step):
        (tmp_path / place / "model").mkdir(parents=True)
    (tmp_path / "snapshots" / "a file").touch()
    assert policy_paths(tmp_path) == [*by_step, "."]
