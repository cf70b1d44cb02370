"""A disk that takes no more is one sentence, whoever meets it, and the rerun goes on."""

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dist_cp
from demo_stage import make_demo
from safetensors.torch import save_file

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.disk import disk_in_a_sentence

FULL = r"^the disk of \S+ takes no more \(\d+\.\d MB are free\); make room and run this again: nothing half-written"
READ_ONLY = r"^\S+ cannot be written \(Read-only file system\); make it writable and run this again"


def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    yield from mounted(tmp_path / "small", "size=256k")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "read_only", "ro,size=256k")


def by_python(path: Path) -> None:
    path.write_bytes(bytes(10**6))


def by_json(path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(list(range(10**5)), file)


def by_safetensors(path: Path) -> None:
    save_file({"x": torch.zeros(10**6)}, path)


def by_torch(path: Path) -> None:
    torch.save({"x": torch.zeros(10**6)}, path)


def by_torch_small(path: Path) -> None:
    """Into what is left of a disk that is all but full: the writer notices in another place."""
    path.with_name("other").write_bytes(bytes(255 * 1024))
    torch.save({"x": torch.zeros(10**4)}, path)


def by_sqlite(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as rows:
        rows.execute("CREATE TABLE t (x BLOB)")
        rows.execute("INSERT INTO t VALUES (?)", (bytes(10**6),))


def by_checkpoint(path: Path) -> None:
    """Of sharded weights: its error is no Exception, lest somebody catch it."""
    dist_cp.save({"x": torch.zeros(10**6)}, storage_writer=dist_cp.FileSystemWriter(path), no_dist=True)


def by_another_error(path: Path) -> None:
    """Of a library that wraps the error in one of its own."""
    try:
        by_python(path)
    except OSError as error:
        raise RuntimeError("the model cannot be saved") from error


WRITERS = [by_python, by_json, by_safetensors, by_torch, by_torch_small, by_sqlite, by_checkpoint, by_another_error]


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk(small: Path, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some errors name no file: then it is the fullest disk of those that stages write to."""
    monkeypatch.chdir(small)
    (small / "out").mkdir()
    with pytest.raises(UserError, match=FULL), disk_in_a_sentence():
        write(small / "out" / "file")


@pytest.mark.parametrize("write", [by_python, by_json, by_safetensors, by_another_error])
def test_a_read_only_disk(read_only: Path, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(read_only)
    with pytest.raises(UserError, match=READ_ONLY), disk_in_a_sentence():
        write(read_only / "file")


def test_a_quota_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(UserError, match=r"^the disk of \S+ takes no more \(the quota is used up\); make room"),
        disk_in_a_sentence(),
    ):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(tmp_path / "out" / "file"))


def test_a_disk_too_full_for_any_temporary_folder(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one disk of a machine, whose error names no file: `tempfile` looks for a folder that it can write to."""
    monkeypatch.chdir(small)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(small)])
    with pytest.raises(UserError, match=FULL), disk_in_a_sentence():
        by_python(small / "ballast")
    with pytest.raises(UserError, match=FULL), disk_in_a_sentence():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_of_another_user_in_a_folder_that_both_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where several work in one project: the folder is the group's, and the file has its maker's permissions."""
    monkeypatch.chdir(tmp_path)
    file = Path("scratch/locks/starting")
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK or Path(path) != file)
    sentence = r"^scratch/locks/starting cannot be written \(Permission denied\); make it writable and run this again"
    with pytest.raises(UserError, match=sentence), disk_in_a_sentence():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))


def test_a_folder_of_another_user_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to be read lies in it: to make it writable would not help."""
    monkeypatch.chdir(tmp_path)
    folder = Path("data/private")
    folder.mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != folder)
    sentence = r"^data/private cannot be entered \(Permission denied\); change its permissions and run this again"
    with pytest.raises(UserError, match=sentence), disk_in_a_sentence():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder / "pairs.jsonl"))


class Other(RuntimeError):
    pass


@pytest.mark.parametrize(
    "error",
    [
        Other("the loss is not finite"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied", sys.executable),  # its folder can be written by its owner
        RuntimeError("PytorchStreamReader failed reading zip archive"),
        TypeError("forward() received unexpected position_ids"),
        KeyboardInterrupt(),
        SystemExit("No space left on device"),
    ],
)
def test_every_other_error_passes_unchanged(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: True)
    with pytest.raises(type(error)) as raised, disk_in_a_sentence():
        raise error
    assert raised.value is error


FILLING = """
import sys
from pathlib import Path
from epsilon_dpo.pipeline.stage.execution import run_stage

with run_stage("demo", "a") as stage:
    for number in range(4):
        stage.journal.of(number, lambda: print("computed") or "x" * 40_000)
    (stage.out / "result").write_text("y" * int(sys.argv[1]))
"""


def test_a_stage_on_a_full_disk_says_one_sentence_and_goes_on_after_it(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four batches the disk takes two; then there is more room, but not enough for the output."""
    make_demo(small, monkeypatch)
    run = lambda size: subprocess.run(  # noqa: E731
        [sys.executable, "-c", FILLING, str(size)], capture_output=True, text=True
    )
    ballast = small / "ballast"
    ballast.write_bytes(bytes(120 * 1024))
    first = run(1000)
    assert first.returncode == 1
    [line] = [line for line in first.stderr.splitlines() if not line.startswith("tracking:")]
    assert line.startswith("ERROR in stage demo@a: the disk of out ") and "takes no more" in line
    assert not list((small / "out" / "demo").iterdir())
    ballast.unlink()
    done = run(200_000)
    assert done.returncode == 1 and "takes no more" in done.stderr
    assert first.stdout.count("computed") == 3 and done.stdout.count("computed") == 2
    assert not list((small / "out" / "demo").iterdir())
    last = run(10)
    assert last.returncode == 0, last.stderr
    assert last.stdout.count("computed") == 0
    assert (small / "out/demo/a/result").read_text() == "y" * 10


def test_a_stage_on_a_read_only_disk_says_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    for folder in mounted(project, "size=256k"):
        make_demo(folder, monkeypatch)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        done = subprocess.run([sys.executable, "demo.py", "a", "demo.py"], capture_output=True, text=True)
        assert done.returncode == 1
        assert "ERROR in stage demo@a: " in done.stderr and "Read-only file system" in done.stderr
        assert "Traceback" not in done.stderr
        monkeypatch.chdir(tmp_path)


IMPORTING = """
import time
from epsilon_dpo.pipeline.stage.execution import heavy_imports

with heavy_imports():
    print("started", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("importing", [False, True])
def test_ctrl_c_is_one_line_and_the_exit_code_of_shells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, importing: bool
) -> None:
    make_demo(tmp_path, monkeypatch)
    command = ["-c", IMPORTING] if importing else ["demo.py", "a", "never"]
    stage = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert stage.stdout is not None and stage.stdout.readline() == "started\n"
    time.sleep(0.1)
    stage.send_signal(signal.SIGINT)
    _, said = stage.communicate(timeout=60)
    assert stage.returncode == 130
    [line] = [line for line in said.splitlines() if not line.startswith("tracking:")]
    assert "was interrupted" in line
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("first"))
