"""A run that params.yaml no longer names leaves nothing that DVC would hash; its results come back with its name."""

import subprocess
from pathlib import Path

import pytest
from dvc.cli import main
from ruamel.yaml import YAML
from whole_pipeline import ROOT, copy_project

from epsilon_dpo.check.leftovers import remove_leftovers
from epsilon_dpo.pipeline.stage.params import read_yaml

# Stage check as it is, and beside it one stage per run and one that reads them all.
STAGES = """
  align:
    foreach: ${runs}
    do:
      cmd: run=$(echo $DVC_STAGE | cut -d@ -f2); mkdir -p out/align/$run && cp params.yaml out/align/$run
      deps: [out/check/passed.txt]
      params: ["runs.${key}"]
      outs: ["out/align/${key}"]
  report:
    cmd: mkdir -p out/report && ls out/align > out/report/names && echo ran >> times
    deps: [out/align]
    params: [runs]
    outs: [out/report]
"""


def set_runs(*names: str) -> None:
    params = read_yaml(ROOT / "params.yaml")
    runs = {name: params["runs"].get(name, {"method": "dpo", "beta": 0.1}) for name in names}
    with Path("params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(params | {"runs": runs}, file)


def repro() -> int:
    """`dvc repro`; how often stage report has run by now."""
    assert main(["repro", "-q"]) == 0
    return len(Path("times").read_text().splitlines())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    project = copy_project(tmp_path / "project")
    (project / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())  # else DVC writes its own into out/align
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.delenv("DVC_ROOT", raising=False)
    check = {"stages": {"check": read_yaml(ROOT / "dvc.yaml")["stages"]["check"]}}
    with Path("dvc.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(check, file)
        file.write(STAGES)
    return project


@pytest.mark.slow
def test_a_removed_run_leaves_nothing_and_comes_back_from_the_cache(project: Path) -> None:
    set_runs("dpo", "epsilon_dpo")
    assert repro() == 1
    two = Path("dvc.lock").read_bytes()
    kept = Path("out/align/epsilon_dpo/params.yaml").read_bytes()
    Path("out/align/notes").mkdir()  # somebody's own
    set_runs("dpo")
    assert repro() == 2
    assert sorted(path.name for path in Path("out/align").iterdir()) == ["dpo", "notes"]
    assert list(read_yaml(Path("dvc.lock"))["stages"]) == ["check", "align@dpo", "report"]
    Path("out/align/notes").rmdir()
    set_runs("dpo", "epsilon_dpo")
    assert repro() == 2  # `report` too is taken from the run cache: the same dependencies as at first
    assert sorted(Path("dvc.lock").read_bytes().splitlines()) == sorted(two.splitlines())
    assert Path("out/align/epsilon_dpo/params.yaml").read_bytes() == kept
    set_runs("dpo")  # params.yaml as it was once: DVC would take stage check from its run cache
    repro()
    assert [path.name for path in Path("out/align").iterdir()] == ["dpo"]


def test_only_outputs_of_runs_are_removed(project: Path) -> None:
    """dvc.lock may be somebody else's."""
    outs = [{"path": "../precious", "md5": "0" * 32, "size": 1}]
    odd = ["align@../../precious", "align@", "report@gone", "elsewhere@gone"]
    with Path("dvc.lock").open("w", encoding="utf-8") as file:
        YAML().dump({"schema": "2.0", "stages": {name: {"cmd": "x", "outs": outs} for name in odd}}, file)
    (project.parent / "precious").mkdir()
    set_runs("dpo")
    assert remove_leftovers(["dpo"]) == []
    assert (project.parent / "precious").is_dir()


def test_before_dvc_runs(project: Path) -> None:
    """`make repro` does it first."""
    set_runs("dpo", "epsilon_dpo")
    repro()
    set_runs("dpo")
    subprocess.run(["python", "-m", "epsilon_dpo.check.params_file"], check=True)
    assert [path.name for path in Path("out/align").iterdir()] == ["dpo"]


def test_a_kill_in_the_middle_is_made_good(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_runs("dpo", "epsilon_dpo")
    repro()
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("epsilon_dpo.check.leftovers._forget", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        remove_leftovers(["dpo"])
    assert remove_leftovers(["dpo"]) == ["epsilon_dpo"]
    assert not Path("out/align/epsilon_dpo").exists()
    assert "align@epsilon_dpo" not in read_yaml(Path("dvc.lock"))["stages"]
