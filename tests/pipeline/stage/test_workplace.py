"""Two executions of a stage share nothing, and what a killed one left goes when the next stage starts."""

import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from demo_stage import make_demo, second

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.execution import run_stage
from epsilon_dpo.pipeline.stage.files import atomic_folder
from epsilon_dpo.pipeline.stage.runs import make_place
from epsilon_dpo.pipeline.stage.workplace import workplace

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_demo(tmp_path, monkeypatch)


@pytest.fixture
def start(project: Path) -> Iterator[Start]:
    """Start an execution of demo that has begun to write, in `folder`, and goes on when the file `go` appears."""
    started = []

    def begin(run: str, go: str = "go", folder: Path = project, **environment: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(project / "demo.py"), run, str(project / go)]
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "started\n", process.communicate()
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def partials(project: Path) -> list[str]:
    return sorted(path.name for path in (project / "scratch/partial").iterdir())


def test_a_second_execution_is_refused_in_one_sentence_and_disturbs_nothing(project: Path, start: Start) -> None:
    first = start("a")
    refused = second("a")
    assert refused.returncode == 1 and refused.stdout == ""
    assert refused.stderr == (
        f"ERROR in stage demo@a: another process, pid {first.pid}, is running demo@a; wait for it or stop it: "
        f"kill {first.pid}\n"
    )
    other = second("b")  # another run is another stage
    assert other.returncode == 0, other.stderr
    assert partials(project) == [f"demo@a.{first.pid}"] and not (project / "out/demo/a").exists()
    (project / "go").touch()
    assert first.wait(30) == 0
    assert sorted(path.name for path in (project / "out/demo/a").iterdir()) == ["first", "second"]
    assert partials(project) == []


def test_an_execution_of_another_machine_is_to_be_stopped_there(
    project: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that both share; this machine may have another process of that pid."""
    first = start("a")
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    host = os.uname().nodename
    said = (
        f"another process, pid {first.pid} on {host}, is running demo@a; wait for it or stop it there: kill {first.pid}"
    )
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"), workplace("demo@a"):
        pass


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_killed_execution_left_goes_and_a_live_ones_stays(project: Path, start: Start, end: int) -> None:
    """Also if its run is renamed or removed and never starts again, and if another process has its pid by now."""
    killed, live = start("a"), start("b")
    killed.send_signal(end)
    killed.wait()
    assert len(partials(project)) == 2 and not list((project / "out").rglob("*[!a-z]"))
    with workplace("other") as place:
        assert (
            partials(project) == [f"demo@b.{live.pid}"]
            and (project / "scratch/partial" / f"demo@b.{live.pid}/first").exists()
        )
        assert not place.partial.exists()
    assert second("a").returncode == 0 and (project / "out/demo/a/second").exists()
    locks = {path.name for path in (project / "scratch/locks").iterdir()}
    assert {"demo@b.lock"} < locks and "other.lock" not in locks


def test_a_stopped_execution_keeps_its_stage(project: Path, start: Start) -> None:
    stopped = start("a")
    stopped.send_signal(signal.SIGSTOP)
    assert f"pid {stopped.pid}, is running demo@a" in second("a").stderr
    (project / "go").touch()
    stopped.send_signal(signal.SIGCONT)
    assert stopped.wait(30) == 0 and (project / "out/demo/a/second").exists()


def copy_of(project: Path) -> Path:
    """As `dvc exp run --temp` makes one."""
    copy = project / ".dvc/tmp/exps/x"
    copy.mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(project / name, copy)
    return copy


def test_experiments_side_by_side_have_folders_of_their_own(project: Path, start: Start) -> None:
    """They write into outputs of their own, but the same stage has the same fingerprint in all of them."""
    copy = copy_of(project)
    both = [start("a"), start("a", folder=copy, DVC_ROOT=str(project), DVC_EXP_NAME="x")]
    checkpoints = sorted(path.name for path in (project / "scratch").glob("demo@a-*"))
    assert len(checkpoints) == 2 and checkpoints[1] == f"{checkpoints[0]}-2"
    assert len(partials(project)) == 2
    (project / "go").touch()
    assert [process.wait(30) for process in both] == [0, 0]
    assert (copy / "out/demo/a/second").exists() and (project / "out/demo/a/second").exists()
    assert not list((project / "scratch").glob("demo@a-*"))


@pytest.mark.parametrize("experiment", [False, True])
def test_success_removes_the_checkpoints_of_abandoned_params_that_nobody_uses(
    project: Path, start: Start, monkeypatch: pytest.MonkeyPatch, experiment: bool
) -> None:
    """Not those of other names; and an experiment leaves the others' alone."""
    copy = copy_of(project)
    (copy / "params.yaml").write_text("runs: {a: {x: 2}}\n")
    live = start("a", folder=copy, DVC_ROOT=str(project))
    (in_use,) = (project / "scratch").glob("demo@a-*")
    kept = [project / "scratch" / f"{name}-{'0' * 16}" for name in ("demo@a_2", "demo@b")]
    old = [project / "scratch" / f"demo@a-{'0' * 16}{end}" for end in ("", "-2")]
    for folder in kept + old:
        folder.mkdir()
    if experiment:
        monkeypatch.setenv("DVC_EXP_NAME", "mine")
    assert second("a").returncode == 0
    expected = {in_use, *kept, *(old if experiment else ())}
    assert set((project / "scratch").glob("demo@*-*")) == expected and live.poll() is None


def test_an_output_that_vanished_is_not_made_again(project: Path) -> None:
    """A writer that makes its folder, as transformers' do, must not turn half an output into a complete one."""
    with pytest.raises(SystemExit) as end, run_stage("demo", "a") as stage:
        (stage.out / "first").write_text("1")
        shutil.rmtree(stage.out)
        (stage.out / "model").mkdir(parents=True)
    assert "was removed while it was being filled" in str(end.value.code)
    assert not (project / "out/demo/a").exists() and partials(project) == []
    with pytest.raises(FileNotFoundError):
        make_place(project / "gone", "snapshots/000003")
    assert make_place(project, ".") == project and make_place(project, "snapshots/1").is_dir()


def test_another_file_system_is_refused_before_the_work(project: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == project.stat().st_dev:
        pytest.skip("no second file system here")
    there = memory / f"epsilon-dpo-test-{os.getpid()}"
    try:
        with pytest.raises(UserError, match="different file systems"), atomic_folder(project / "out/x", there / "x"):
            raise AssertionError("not reached")
    finally:
        shutil.rmtree(there)
    assert list((project / "out").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(project: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = pytest.raises(UserError, match=r"scratch is on a file system without file locks .*; mount it with them")
    with said, workplace("demo"):
        pass
