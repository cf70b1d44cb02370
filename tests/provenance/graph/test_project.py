"""Which other DVC is at work in a project, as its own lock file says."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from epsilon_dpo.provenance.graph.project import at_work

WRITES = json.dumps({"write": {"/x": {"pid": 1, "cmd": "dvc repro"}}, "read": {}})


def test_a_dvc_that_is_just_writing_its_lock_file_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes it in place; what was read then was taken for nobody, and a policy could be promoted meanwhile."""
    states = ["", WRITES[:30], WRITES]
    monkeypatch.setattr(time, "sleep", lambda _: (tmp_path / "rwlock").write_text(states.pop(0)))
    time.sleep(0)
    repo = SimpleNamespace(tmp_dir=str(tmp_path))
    assert at_work(repo) == "dvc repro, PID 1" and not states


def test_a_lock_file_that_a_kill_cut_off_names_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rwlock").write_text(WRITES[:30])
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert at_work(SimpleNamespace(tmp_dir=str(tmp_path))) is None
