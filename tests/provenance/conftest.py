"""The project of promotion_project.py, reproduced, and asking."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from promotion_project import (
    MAKE,
    SOURCE,
    STAGES,
    STRENGTHS,
    dvc,
    git,
    record_trainings,
    set_runs,
    store_of,
    write_yaml,
)


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after `dvc repro`, dvc.lock committed, with a store that has the row of each training."""
    project = tmp_path_factory.mktemp("promotion") / "project"
    project.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.delenv("DVC_ROOT", raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", store_of(project))
        Path("make.py").write_text(MAKE % str(SOURCE))
        stages = json.loads(json.dumps(STAGES))
        for name, stage in stages.items():
            stage.get("do", stage)["cmd"] = f"{sys.executable} make.py {name}" + ("@${key}" if "do" in stage else "")
        write_yaml("dvc.yaml", {"stages": stages})
        set_runs(**STRENGTHS)
        Path(".gitignore").write_text("/out\n/scratch\n/mlruns*\n")
        git("init", "-q", ".")
        dvc("init", "-q")
        dvc("repro", "-q")
        git("add", ".")
        git("commit", "-qm", "results")
        record_trainings()
    return project


@pytest.fixture
def project(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, the working folder."""
    monkeypatch.chdir(shutil.copytree(results, tmp_path / "project"))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_of(Path.cwd()))
    store_of_results, own = (Path(store_of(place).removeprefix("sqlite:///")).parent for place in (results, Path.cwd()))
    store_of_results.rename(own)
    return Path.cwd()


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Ends with code 1; returns the sentence."""
    from epsilon_dpo.cli import main

    def ask(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert isinstance(end.value.code, str)
        return end.value.code

    return ask
