"""Which commit a promotion names as the one that records its policy."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.provenance.champion import recorded
from epsilon_dpo.provenance.graph.project import Project


def test_the_commit_of_an_experiment_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is on no branch: no clone has it for `dvc get --rev`, and `dvc exp remove` takes it away."""
    monkeypatch.chdir(tmp_path)
    model = Path("out/align/mine/model")
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    experiments = {"e": "tidy-lynx", "b": None, "a": None}  # by commit, the newest first
    places: list[dict[str, Any]] = [{"workspace": True}]
    places += [{"sha": sha * 40, "experiment": experiment} for sha, experiment in experiments.items()]
    monkeypatch.setattr(recorded, "origin", lambda *_: {"found": True, "recorded_by": places, "doubts": []})
    out = SimpleNamespace(fs_path=str(tmp_path / "out/align/mine"), hash_info=SimpleNamespace(value="1.dir"))
    project = cast(Project, SimpleNamespace(root=tmp_path, stages=[SimpleNamespace(outs=[out])]))
    summary = {"runs": {"mine": {"policy_sha256": digest(model)}}}
    policy = recorded.policy_of(project, summary, "mine")
    assert (policy.commits, policy.commit) == (["b" * 40, "a" * 40], "b" * 40)
    assert (policy.path, policy.out, policy.md5) == ("out/align/mine/model", "out/align/mine", "1.dir")
    del places[2:]
    assert recorded.policy_of(project, summary, "mine").commit is None
