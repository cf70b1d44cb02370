"""`make` says what is missing before it installs anything."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def needs(folder: Path, *settings: str, path: str | None = None) -> subprocess.CompletedProcess:
    shutil.copy(ROOT / "Makefile", folder)
    make = shutil.which("make")
    assert make is not None
    env = {"PATH": path or "/usr/local/bin:/usr/bin:/bin"}
    command = [make, "needs", f"PYTHON={sys.executable}", *settings]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def git_init(folder: Path) -> None:
    subprocess.run(["git", "init", "-q", "."], cwd=folder, check=True)


def test_a_clone_with_all_that_is_needed_passes(tmp_path: Path) -> None:
    git_init(tmp_path)
    done = needs(tmp_path, "FREE_GB=0")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_pip_conf_with_user_true_does_not_reach_the_environment(tmp_path: Path) -> None:
    """As Manjaro's /etc/pip.conf has it; an environment refuses such an installation."""
    rule = 'shown: ; @echo "($$PIP_USER)"'
    (tmp_path / "Makefile").write_text(f"{(ROOT / 'Makefile').read_text('utf-8')}\n{rule}\n", "utf-8")
    command = ["make", "--no-print-directory", "shown"]
    shown = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=True)
    assert shown.stdout == "(0)\n"


def test_a_project_that_was_moved_is_told_so(tmp_path: Path) -> None:
    """Its environment names the old place: `ModuleNotFoundError: epsilon_dpo` would be all that is said."""
    git_init(tmp_path)
    program = tmp_path / ".venv/bin/dvc"
    program.parent.mkdir(parents=True)
    program.write_text("#!/gone/.venv/bin/python\n")
    done = needs(tmp_path, "FREE_GB=0")
    assert done.returncode != 0 and "was made in another folder, which is gone: rm -rf .venv" in done.stderr
    program.write_text(f"#!{sys.executable}\n")
    assert needs(tmp_path, "FREE_GB=0").returncode == 0
    odd = tmp_path / "[uni]"
    odd.mkdir()
    git_init(odd)
    python = odd / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (odd / ".venv/bin/dvc").write_text(f"#!{python}\n")
    assert needs(odd, "FREE_GB=0").returncode == 0, "a name that make reads as a pattern"


def test_an_unpacked_archive_is_told_to_become_a_repository(tmp_path: Path) -> None:
    done = needs(tmp_path)
    assert done.returncode != 0
    assert f"{tmp_path} is not a git repository, and DVC needs one: clone the project, or run `git init" in done.stdout
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    assert needs(tmp_path, "FREE_GB=0").returncode == 0


def test_somebody_elses_clone_is_no_missing_repository(tmp_path: Path) -> None:
    """As git says it, where the folder's owner is another."""
    commands = tmp_path / "commands"
    commands.mkdir()
    git = commands / "git"
    said = "fatal: detected dubious ownership; call git config --global --add safe.directory $PWD"
    git.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 128\n')
    git.chmod(0o755)
    done = needs(tmp_path, "FREE_GB=0", path=f"{commands}:/usr/local/bin:/usr/bin:/bin")
    assert done.returncode != 0
    assert "belongs to another user, so git does not read it: git config --global --add safe.dir" in done.stdout


def test_too_little_disk(tmp_path: Path) -> None:
    git_init(tmp_path)
    done = needs(tmp_path, "FREE_GB=999999")
    assert done.returncode != 0
    assert "GB of disk are free here, and 999999 are needed" in done.stdout


def test_how_much_disk_depends_on_the_build_of_torch(tmp_path: Path) -> None:
    git_init(tmp_path)
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\n")
    df = tmp_path / "df"
    df.write_text('#!/bin/sh\necho header\necho "/ 1 1 $((5 * 1048576)) 1 /"\n')
    df.chmod(0o755)
    path = f"{tmp_path}:/usr/local/bin:/usr/bin:/bin"
    assert needs(tmp_path, "TORCH=torch==2.13.0 --index-url https://x/whl/cpu", path=path).returncode == 0
    cuda = needs(tmp_path, path=path)
    if sys.platform == "linux":
        assert cuda.returncode != 0 and "Only 5 GB of disk are free here, and 8 are needed (4 with" in cuda.stdout
    else:
        assert cuda.returncode == 0


def test_a_gpu_needs_the_headers_of_python(tmp_path: Path) -> None:
    """Triton compiles against them at the first step; a compiler alone is not enough."""
    git_init(tmp_path)
    without = tmp_path / "python"
    without.write_text(f'#!/bin/sh\ncase "$2" in *Python.h*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    without.chmod(0o755)
    assert needs(tmp_path, "FREE_GB=0", "GPUS=", f"PYTHON={without}").returncode == 0
    done = needs(tmp_path, "FREE_GB=0", "GPUS=/dev/nvidia0", f"PYTHON={without}")
    assert done.returncode != 0 and "On a GPU Triton needs a C compiler and the headers of" in done.stdout


def test_no_git(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    commands = tmp_path_factory.mktemp("commands")
    for name in ("sh", "bash", "awk", "df", "grep"):
        if found := shutil.which(name):
            (commands / name).symlink_to(found)
    done = needs(tmp_path, path=str(commands))
    assert done.returncode != 0
    assert "git is not installed, and DVC needs it: install git." in done.stdout


def test_another_python(tmp_path: Path) -> None:
    """A stand-in that reports 3.12, since only one Python is sure to be here."""
    other = tmp_path / "python3.12"
    pretence = "import sys; sys.version_info = (3, 12, 1, 'final', 0)"
    other.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretence}; $2"\n')
    other.chmod(0o755)
    done = needs(tmp_path, f"PYTHON={other}")
    assert done.returncode != 0
    assert "Python 3.11 is needed (the pins are for it)" in done.stdout + done.stderr
