"""DVC's own commands on this repository, both dvc.yaml files in it: after `dvc repro`, and in a fresh clone.

A stage that is declared and has no result makes plain `dvc pull`, `checkout`, `commit`, `exp apply` and `exp save` end
with an error, also for those who never run it. The stages are the repository's own; only their commands are replaced.
"""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from dvc.cli import main
from ruamel.yaml import YAML
from whole_pipeline import ROOT, copy_project

from epsilon_dpo.pipeline.stage.params import read_yaml

pytestmark = pytest.mark.slow


LEFTOVERS = (
    "draft.py~",
    ".draft.py.swp",
    "#draft.py#",
    ".#draft.py",
    ".DS_Store",
    "old.pyc",
    "__pycache__/draft.cpython-311.pyc",
    ".ipynb_checkpoints/draft.ipynb",
    ".pytest_cache/README.md",
    ".mypy_cache/cache.json",
    ".ruff_cache/CACHEDIR.TAG",
)


def write(path: Path, content: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(content, file)


def cheap(stage: dict[str, Any]) -> dict[str, Any]:
    """The stage with a command that only makes its outputs, and without single files of code, which cost DVC time."""
    entry = stage.get("do", stage)
    inside = {"out/scorer": "dpo/file"}  # of which a run needs the folder of its method
    outs = [out if isinstance(out, str) else next(iter(out)) for out in entry["outs"]]
    files = [out if Path(out).suffix else f"{out}/{inside.get(out, 'file')}" for out in outs]
    cmd = " && ".join(f"mkdir -p {Path(file).parent} && head -5 params.yaml > {file}" for file in files)
    deps = [dep for dep in entry["deps"] if dep.startswith("out/") or not Path(dep).suffix]
    changed = entry | {"cmd": cmd, "deps": deps}
    return stage | {"do": changed} if "do" in stage else changed


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=A User", "-c", "user.email=user@example.org")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def dvc(*arguments: str) -> None:
    """`dvc ...` in the working folder and in this process, which saves a second each time."""
    assert main([*arguments]) == 0, f"dvc {' '.join(arguments)}"


def says(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    dvc(*arguments)
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with one run, reproduced, its lock committed and its results in a remote beside it."""
    project = copy_project(tmp_path_factory.mktemp("commands") / "project")
    (project / "external").mkdir()
    for source in [ROOT / ".gitignore", *(path for path in (ROOT / "external").iterdir() if path.is_file())]:
        (project / source.relative_to(ROOT)).write_bytes(source.read_bytes())
    for file in ("dvc.yaml", "external/dvc.yaml"):
        content = read_yaml(project / file)
        write(project / file, content | {"stages": {name: cheap(s) for name, s in content["stages"].items()}})
    params = read_yaml(project / "params.yaml")
    write(project / "params.yaml", params | {"runs": {"dpo": params["runs"]["dpo"]}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        dvc("remote", "add", "-d", "store", str(project.parent / "store"))
        dvc("repro", "-q")
        dvc("push", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "results")
    return project


UP_TO_DATE = "Data and pipelines are up to date."


def test_after_repro(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(project)
    assert UP_TO_DATE in says(capsys, "status")
    dvc("checkout")
    dvc("pull")
    dvc("commit", "-f")
    git(project, "diff", "--exit-code")


def test_in_a_fresh_clone(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clone = project.parent / "clone"
    git(project.parent, "clone", "-q", str(project), str(clone))
    monkeypatch.chdir(clone)
    dvc("pull")
    assert Path("out/report/file").read_bytes() == (project / "out/report/file").read_bytes()
    dvc("checkout")
    assert UP_TO_DATE in says(capsys, "status")
    dvc("commit", "-f")
    git(clone, "diff", "--exit-code")


def test_an_experiment_is_saved_and_applied(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    before = Path("params.yaml").read_text("utf-8")
    write(Path("params.yaml"), read_yaml(Path("params.yaml")) | {"report": {"examples": 3}})
    Path("out/report/file").write_text("another report")
    changed = Path("params.yaml").read_text("utf-8")
    dvc("exp", "save", "-q", "-n", "fewer-examples")
    git(project, "checkout", "-q", ".")
    dvc("checkout", "-q")
    assert Path("params.yaml").read_text("utf-8") == before and Path("out/report/file").read_text() != "another report"
    dvc("exp", "apply", "fewer-examples")
    assert Path("params.yaml").read_text("utf-8") == changed and Path("out/report/file").read_text() == "another report"
    git(project, "checkout", "-q", ".")
    dvc("checkout", "-q")


def test_leftovers_of_editors_and_tools_are_no_change(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    folders = [Path(name) for name in ("src/epsilon_dpo/methods", "out/align/dpo", "out/base/model", "out/report")]
    files = [folder / name for folder in folders for name in LEFTOVERS]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("left over")
    try:
        assert UP_TO_DATE in says(capsys, "status")
    finally:
        for file in files:
            file.unlink()
    Path("out/report/result.csv").write_text("not left over")
    assert "out/report" in says(capsys, "status")
    Path("out/report/result.csv").unlink()
