"""dvc.lock from those of copies of a project: what goes over, what is refused, and that DVC takes it for its own."""

import stat
import subprocess
from pathlib import Path

import pytest
from dvc.cli import main
from dvc.repo import Repo

from epsilon_dpo.pipeline.jobs.gather import gather
from epsilon_dpo.pipeline.observability.errors import UserError

# A text of several lines with a blank one, which DVC writes over several lines of dvc.lock.
PARAMS = """
system: "Be brief.\\n\\n  Be kind, and say what there is to be said about the case at hand, in a sentence or two."
runs: {dpo: {beta: 0.1}, ipo: {beta: 0.2}}
"""
STAGES = """
stages:
  sft:
    cmd: mkdir -p out/sft && echo sft > out/sft/model && echo $DVC_STAGE >> ../ran
    params: [system]
    outs: [out/sft]
  align:
    foreach: ${runs}
    do:
      cmd: run=$(echo $DVC_STAGE | cut -d@ -f2) && mkdir -p out/align/$run && echo $run > out/align/$run/model &&
        echo $DVC_STAGE >> ../ran
      deps: [out/sft]
      params: ["runs.${key}"]
      outs: ["out/align/${key}"]
  report:
    cmd: mkdir -p out/report && cat out/align/*/model > out/report/page && echo $DVC_STAGE >> ../ran
    deps: [out/align]
    outs: [out/report]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two copies with a run each and one cache, and a project that ran nothing; their parent folder."""
    parent = tmp_path_factory.mktemp("jobs")
    with pytest.MonkeyPatch.context() as patch:
        for name, targets in (("first", ["align@dpo"]), ("second", ["align@ipo"]), ("project", [])):
            folder = parent / name
            folder.mkdir()
            patch.chdir(folder)
            subprocess.run(["git", "init", "-q"], check=True)
            dvc("init", "-q")
            dvc("cache", "dir", "--local", str(parent / "cache"))
            Path(".gitignore").write_text("/out/", "utf-8")  # as the project's: else DVC writes one into out/align
            Path("dvc.yaml").write_text(STAGES, "utf-8")
            Path("params.yaml").write_text(PARAMS, "utf-8")
            if targets:
                dvc("repro", "-q", *targets)
    return parent


@pytest.fixture
def project(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made / "project")
    Path("dvc.lock").unlink(missing_ok=True)
    return made / "project"


FIRST, SECOND = Path("../first/dvc.lock"), Path("../second/dvc.lock")


def dvc(*arguments: str) -> None:
    assert main([*arguments]) == 0, f"dvc {' '.join(arguments)}"


def test_dvc_takes_it_for_its_own(project: Path) -> None:
    assert gather([FIRST, SECOND]).startswith("dvc.lock records 3 stages, 3 of them new or changed. Their ")
    dvc("checkout", "-q", "--allow-missing")
    assert Path("out/align/ipo/model").read_text() == "ipo\n"
    dvc("repro", "-q")
    assert Path("../ran").read_text().split() == ["sft", "align@dpo", "align@ipo", "report"]
    gathered = Path("dvc.lock").read_bytes()
    Path("dvc.lock").unlink()
    dvc("repro", "-q", "-f")
    assert Path("dvc.lock").read_bytes() == gathered


def test_a_stage_that_no_copy_has_keeps_its_entry(project: Path) -> None:
    gather([FIRST])
    dvc("checkout", "-q", "sft", "align@dpo")
    alone = Path("dvc.lock").read_text("utf-8")
    assert gather([SECOND]).startswith("dvc.lock records 3 stages, 1 of them new or changed.")
    assert Path("dvc.lock").read_text("utf-8").startswith(alone)


def test_copies_that_differ_about_a_stage_are_refused(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "dvc.lock"
    other.write_text(SECOND.read_text("utf-8").replace("size: 4", "size: 5"), "utf-8")
    with pytest.raises(UserError, match=r"first/dvc\.lock and .*dvc\.lock record different results of sft, so"):
        gather([FIRST, other])
    assert not Path("dvc.lock").exists()


def test_a_run_of_other_params_is_left_out_by_name(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "dvc.lock"
    other.write_text(SECOND.read_text("utf-8").replace("align@ipo", "align@kto"), "utf-8")
    said = gather([FIRST, other])
    assert said.startswith("dvc.lock records 2 stages") and said.endswith("no such stages: align@kto.")
    assert "kto" not in Path("dvc.lock").read_text("utf-8")


DAMAGED = {
    "in the midst of a line": lambda text: text[:-4],
    "before the first of an entry's outputs": lambda text: text[: text.rindex("    - path")],
    "after a stage's name": lambda text: text[: text.rindex("    cmd:")],
    "by a merge": lambda text: text.replace("  align@ipo", "<<<<<<< HEAD\n  align@ipo"),
    "to nothing": lambda text: "",
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_one_is_refused(how: str, project: Path, tmp_path: Path) -> None:
    other = tmp_path / "dvc.lock"
    other.write_text(DAMAGED[how](SECOND.read_text("utf-8")), "utf-8")
    with pytest.raises(UserError, match=r"dvc\.lock is not as DVC writes a dvc\.lock"):
        gather([FIRST, other])
    gather([FIRST])
    before = Path("dvc.lock").read_bytes()
    with pytest.raises(UserError, match=r"dvc\.lock is not as"):
        gather([other])
    assert Path("dvc.lock").read_bytes() == before


def test_mode_and_link_of_the_file_stay(project: Path) -> None:
    kept = project.parent / "kept.lock"
    kept.write_bytes(FIRST.read_bytes())
    kept.chmod(0o660)
    Path("dvc.lock").symlink_to(kept)
    gather([SECOND])
    assert Path("dvc.lock").is_symlink() and kept.read_text("utf-8").count("align@") == 2
    assert stat.S_IMODE(kept.stat().st_mode) == 0o660


def test_an_absent_one_is_named(project: Path) -> None:
    with pytest.raises(UserError, match=r"\.\./third/dvc\.lock cannot be read: No such file or directory"):
        gather([FIRST, Path("../third/dvc.lock")])


def test_it_waits_for_no_other_dvc(project: Path) -> None:
    with Repo() as repo, repo.lock, pytest.raises(UserError, match="being written by another dvc"):
        gather([FIRST])
    assert not Path("dvc.lock").exists()
