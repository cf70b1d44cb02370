"""A run that params.yaml no longer names leaves nothing that DVC would hash; its results come back with its name."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from dvc.cli import main
from dvc.repo import Repo
from ruamel.yaml import YAML
from whole_pipeline import ROOT, copy_project

from epsilon_dpo.check.leftovers import remove_leftovers
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.params import read_yaml

# Stage check as it is, and beside it one stage per run and one that reads them all.
STAGES = """
  align:
    foreach: ${runs}
    do:
      cmd: run=$(echo $DVC_STAGE | cut -d@ -f2); mkdir -p out/align/$run out/align/metrics/$run &&
        cp params.yaml out/align/$run && echo $run > out/align/metrics/$run/losses
      deps: [out/check/passed.txt]
      params: ["runs.${key}"]
      outs: ["out/align/${key}", "out/align/metrics/${key}"]
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


def folders() -> list[str]:
    """Those in out/align, and in its metrics."""
    here = Path("out/align")
    return sorted(path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_dir())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(made(tmp_path / "project"), monkeypatch)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both runs, after `dvc repro`."""
    with pytest.MonkeyPatch.context() as patch:
        folder = enter(made(tmp_path_factory.mktemp("leftovers") / "project"), patch)
        set_runs("dpo", "epsilon_dpo")
        repro()
    return folder


@pytest.fixture
def reproduced(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    return enter(shutil.copytree(results, tmp_path / "project", symlinks=True), monkeypatch)


def made(project: Path) -> Path:
    copy_project(project)
    (project / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())  # else DVC writes its own into out/align
    check = {"stages": {"check": read_yaml(ROOT / "dvc.yaml")["stages"]["check"]}}
    with (project / "dvc.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(check, file)
        file.write(STAGES)
    return project


def enter(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.delenv("DVC_ROOT", raising=False)
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
    assert folders() == ["dpo", "metrics", "metrics/dpo", "notes"]
    assert list(read_yaml(Path("dvc.lock"))["stages"]) == ["check", "align@dpo", "report"]
    Path("out/align/notes").rmdir()
    set_runs("dpo", "epsilon_dpo")
    assert repro() == 2  # `report` too is taken from the run cache: the same dependencies as at first
    assert sorted(Path("dvc.lock").read_bytes().splitlines()) == sorted(two.splitlines())
    assert Path("out/align/epsilon_dpo/params.yaml").read_bytes() == kept
    set_runs("dpo")  # params.yaml as it was once: DVC would take stage check from its run cache
    repro()
    assert folders() == ["dpo", "metrics", "metrics/dpo"]


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


def test_before_dvc_runs(reproduced: Path) -> None:
    """`make repro` does it first."""
    set_runs("dpo")
    subprocess.run(["python", "-m", "epsilon_dpo.check.params_file"], check=True)
    assert folders() == ["dpo", "metrics", "metrics/dpo"]


def test_a_kill_in_the_middle_is_made_good(reproduced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("epsilon_dpo.check.leftovers._forget", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        remove_leftovers(["dpo"])
    assert remove_leftovers(["dpo"]) == ["epsilon_dpo"]
    assert not Path("out/align/epsilon_dpo").exists()
    assert "align@epsilon_dpo" not in read_yaml(Path("dvc.lock"))["stages"]


def test_dvc_lock_stays_as_it_is_while_another_dvc_writes_it(reproduced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0.0)  # seconds for which it tries again
    before = Path("dvc.lock").read_bytes()
    Path("out/align/epsilon_dpo/params.yaml").write_text("by hand")
    said = r"^dvc\.lock is being written by another dvc; wait .* Moved meanwhile: scratch/removed/align-epsilon_dpo, "
    with Repo() as repo, repo.lock, pytest.raises(UserError, match=said):
        remove_leftovers(["dpo"])
    assert Path("dvc.lock").read_bytes() == before
    assert remove_leftovers(["dpo"]) == ["epsilon_dpo"], "once the other has ended"
    assert "align@epsilon_dpo" not in read_yaml(Path("dvc.lock"))["stages"]


def test_a_dvc_lock_that_another_dvc_is_writing_is_not_called_damaged(
    reproduced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence says to remove a damaged one, and with it goes all that the other is about to record."""
    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0.0)
    complete = Path("dvc.lock").read_bytes()
    with Repo() as other, other.lock:
        Path("dvc.lock").write_bytes(complete[: complete.index(b"  align@") + 8])
        with pytest.raises(UserError, match=r"^dvc\.lock is being written by another dvc; wait for it and run this"):
            remove_leftovers(["dpo"])
        Path("dvc.lock").write_bytes(complete)
    assert remove_leftovers(["dpo"]) == ["epsilon_dpo"]


def test_what_dvcs_cache_does_not_have_is_moved_away(reproduced: Path) -> None:
    """As after `dvc repro --no-commit` or `dvc gc`."""
    shutil.rmtree(".dvc/cache")
    metrics = Path("out/align/metrics/epsilon_dpo/losses").read_bytes()
    for moved, and_metrics in (
        ("align-epsilon_dpo", ", scratch/removed/align-metrics-epsilon_dpo"),
        ("align-epsilon_dpo-2", ""),
    ):
        content = Path("out/align/epsilon_dpo/params.yaml").read_bytes()
        lock = Path("dvc.lock").read_bytes()
        said = f"epsilon_dpo (now scratch/removed/{moved}{and_metrics}, which DVC's cache does not have)"
        assert remove_leftovers(["dpo"]) == [said]
        assert Path("scratch/removed", moved, "params.yaml").read_bytes() == content
        assert Path("scratch/removed/align-metrics-epsilon_dpo/losses").read_bytes() == metrics
        Path("dvc.lock").write_bytes(lock)
        Path("out/align/epsilon_dpo").mkdir()
        Path("out/align/epsilon_dpo/params.yaml").write_text("made again")


def test_folders_of_several_stages_that_are_moved_away_are_all_named(project: Path) -> None:
    """By the name of its run alone nobody would find them."""
    with Path("dvc.yaml").open("a", encoding="utf-8") as file:
        file.write('  sample:\n    foreach: ${runs}\n    do: {cmd: x, outs: ["out/sample/${key}"]}\n')
    stages = {}
    for stage in ("align", "sample"):
        folder = Path("out", stage, "gone")
        folder.mkdir(parents=True)
        (folder / "made").write_text(stage)
        stages[f"{stage}@gone"] = {"cmd": "x", "outs": [{"path": folder.as_posix()}]}  # of a remote with versions
    with Path("dvc.lock").open("w", encoding="utf-8") as file:
        YAML().dump({"schema": "2.0", "stages": {"report": {"cmd": "x"}, **stages}}, file)
    there = ", ".join(f"scratch/removed/{stage}-gone" for stage in ("align", "sample"))
    assert remove_leftovers(["dpo"]) == [f"gone (now {there}, which DVC's cache does not have)"]
    for stage in ("align", "sample"):
        assert Path("scratch/removed", f"{stage}-gone", "made").read_text() == stage
    assert list(read_yaml(Path("dvc.lock"))["stages"]) == ["report"]


def test_what_was_made_again_without_dvc_is_moved_away(reproduced: Path) -> None:
    """By hand, or by a `dvc` that was killed before it wrote its lock: the cache has what the lock names, not this."""
    (made := Path("out/align/epsilon_dpo/params.yaml")).unlink()
    made.write_text("made again")
    assert "(now scratch/removed/align-epsilon_dpo" in remove_leftovers(["dpo"])[0]
    assert Path("scratch/removed/align-epsilon_dpo/params.yaml").read_text() == "made again"


def test_a_folder_without_one_of_its_files_is_not_in_the_cache(reproduced: Path) -> None:
    md5 = read_yaml(Path("dvc.lock"))["stages"]["align@epsilon_dpo"]["outs"][0]["md5"]
    [file] = json.loads(Path(".dvc/cache/files/md5", md5[:2], md5[2:]).read_text())
    Path(".dvc/cache/files/md5", file["md5"][:2], file["md5"][2:]).unlink()
    assert "(now scratch/removed/align-epsilon_dpo" in remove_leftovers(["dpo"])[0]


@pytest.mark.parametrize(
    "left",
    [
        "",
        "schema: '2.0'\nstages:\n",
        "stages:\n  align",
        "stages:\n  align@a:\n",
        "stages: {align@a: {outs: [{}]}}",
        "a: [",
    ],
)
def test_a_dvc_lock_that_a_kill_cut_off_is_named(project: Path, left: str) -> None:
    Path("dvc.lock").write_text(left)
    with pytest.raises(
        UserError, match=r"^dvc\.lock is damaged: take it back from git .* run this again .docs/howto\.md"
    ):
        remove_leftovers(["dpo"])


def test_a_dvc_lock_that_a_merge_left_is_not_to_be_removed(project: Path) -> None:
    """What the other branch made, and this clone pulled, is found by it alone."""
    Path("dvc.lock").write_text(
        "schema: '2.0'\n<<<<<<< HEAD\nstages: {}\n=======\nstages: {}\n>>>>>>> other\n", "utf-8"
    )
    with pytest.raises(UserError, match=r'^dvc\.lock has conflict markers of a merge: keep either side .*"Merging"'):
        remove_leftovers(["dpo"])
