"""What tests/test_fault_campaign.py does to a pipeline: a `dvc repro` that can be killed while it runs, a disk that is
small, a project that must compute again from some stage on, and the very small params.yaml of it all."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML
from whole_pipeline import BIN, ROOT, copy_project, dvc, environment, with_preset

from epsilon_dpo.pipeline.stage.params import read_yaml

# Every stage has something to do, a training two checkpoints, and a run snapshots.
TINY: dict[str, Any] = {
    "checkpoints.save_steps": 4,
    "fetch.train_pairs": 300,
    "validate.min_train_pairs": 100,
    **{"judge.max_steps": 12, "judge.mismatched_first": 0.0, "judge.mismatched_share": 0.0},
    **{"sft.max_steps": 12},
    **{"align.max_steps": 12, "align.batch_size": 4, "align.micro_batch_size": 4},
    "candidates.max_prompts": 16,
    "pairs.min_margin": 0.0,
    "sample.max_prompts": 24,
    "tournament.max_prompts": 12,
    "margins": {"source": "judge", "temperature": None},
    "scorer": {"source": "true_reward"},
    "runs": {
        "madpo": {"method": "madpo", "beta": 0.3, "tau": 2.0, "snapshot_epochs": 0.5},
        "rloo": {"method": "rloo", "beta": 0.05, "k": 2, "prompts_per_step": 8, "steps": 6, "max_new_tokens": 16},
    },
}
SENTENCE = re.compile(r"ERROR in stage \S+: .+")  # a bar of progress may stand before it in its line
SECONDS_TO_END = 60.0  # for what a killed pipeline leaves: a stage looks each second, MLflow's process writes its row


def tiny_project(to: Path) -> Path:
    project = copy_project(to, tracked=True)
    shutil.copy(ROOT / ".gitignore", project)  # else `dvc` writes lines in out/, at a kill not all
    with_preset(project, "on-policy", TINY)
    return project


def lock(project: Path) -> bytes:
    return (project / "dvc.lock").read_bytes()


def copy_of(project: Path, to: Path) -> Path:
    """The project with its outputs; no process of another copy reads or writes there."""
    return shutil.copytree(project, to, symlinks=True)


def rewind(project: Path, stage: str) -> None:
    """As if nothing had run from `stage` on, in the order of dvc.lock; not even the run cache knows."""
    content = read_yaml(project / "dvc.lock")
    entries = content["stages"]
    gone = list(entries)[list(entries).index(stage) :]
    for name in gone:
        for out in entries.pop(name)["outs"]:
            path = project / out["path"]
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    yaml = YAML()
    yaml.default_flow_style = False
    with (project / "dvc.lock").open("w", encoding="utf-8") as file:
        yaml.dump(content, file)
    shutil.rmtree(project / ".dvc/cache/runs", ignore_errors=True)


def recorded(project: Path) -> list[str]:
    """The stages of dvc.lock, in the order in which they ran."""
    return list(read_yaml(project / "dvc.lock")["stages"])


def forget(project: Path, stages: list[str]) -> None:
    """Take these, by their names without a run's, from DVC's run cache."""
    for file in [file for file in (project / ".dvc/cache/runs").rglob("*") if file.is_file()]:
        if read_yaml(file)["cmd"].removeprefix("python -m stages.") in stages:
            shutil.rmtree(file.parent)


def start_anew(project: Path, *names: str) -> None:
    for name in names:
        path = project / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def torn_by_dvc(said: str) -> str | None:
    """The file that `dvc` says it cannot read: it writes them in place, so one that dies just then tears one."""
    unreadable = any(of in said for of in ("validation failed", "is invalid", "is corrupted"))
    files = [file for file in ("dvc.lock", ".dvc/tmp/rwlock") if f"{file}'" in said]
    return files[0] if unreadable and files else None


class Repro:
    """`dvc repro`, in a process group of its own, while it runs."""

    def __init__(self, project: Path, *arguments: str, **changes: str) -> None:
        self.project = project
        self.log = project / ".dvc/tmp" / "campaign.log"
        self.log.parent.mkdir(exist_ok=True)
        env = environment(project, PYTHONUNBUFFERED="1", **changes)
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [BIN / "dvc", "repro", *arguments],
                cwd=project,
                env=env,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def stages(self) -> list[str]:
        """Those it began, to run them or to take them from the cache."""
        return re.findall(r"^(?:Running s|S)tage '([^']+)'(?::| is cached)", self.said(), re.MULTILINE)

    def goes_on(self, stages: int, seconds: float) -> bool:
        """Wait until it began so many more stages, and then this long; False: it ended."""
        seen = len(self.stages())
        while len(self.stages()) < seen + stages:
            if self.process.poll() is not None:
                return False
            time.sleep(0.05)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is None

    def kill(self, who: str, number: signal.Signals) -> str:
        """Signal the `dvc` process, the stage's or the whole group; who it was: `dvc` where no stage runs."""
        if who == "group":
            os.killpg(self.process.pid, number)
            return who
        with suppress(psutil.Error):
            if who == "stage" and (found := [each for each in living(self.project) if " -m stages." in title(each)]):
                max(found, key=lambda process: process.create_time()).send_signal(number)  # the fork, not who asked
                return who
        self.process.send_signal(number)
        return "dvc"

    def ends(self, seconds: float) -> bool:
        """Whether it does, within this time."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is not None


def living(project: Path) -> list[psutil.Process]:
    """What runs in the project."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and Path(process.cwd()).is_relative_to(project):
                found.append(process)
    return found


def title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline()).strip()
    return ""


def still_alive(project: Path) -> list[str]:
    """What runs in the project, and does not end by itself."""
    deadline = time.monotonic() + SECONDS_TO_END
    while True:
        found = [title(process) for process in living(project)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def ends_well(project: Path, truth: bytes) -> None:
    """A `dvc repro` completes and the lock is the undisturbed one; nothing is left over, no process of ours lives."""
    done = dvc(project, "repro")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert lock(project) == truth
    assert dvc(project, "status", "-q").returncode == 0, "an output is not the one of the lock"
    assert not still_alive(project)
    assert not list((project / "scratch/partial").glob("*"))


@contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[None]:
    """An empty disk of this size at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    size = f"size={int(megabytes * 1024)}k"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small disk is a tmpfs, which only root may mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def resize(folder: Path, free: float) -> None:
    """Leave so many megabytes free on the small disk at `folder`."""
    size = shutil.disk_usage(folder).used / 1024 + free * 1024
    subprocess.run(["mount", "-o", f"remount,size={int(size)}k", folder], check=True)


def said_by(done: subprocess.CompletedProcess[str]) -> str:
    """The last sentence of a `dvc repro` that failed, of the stage if it is one of ours."""
    text = done.stdout + done.stderr
    assert "Traceback" not in text, text[-3000:]
    return (SENTENCE.findall(text) or text.strip().splitlines())[-1]


def fill_up(copy: Path, disk: Path, free: tuple[float, ...]) -> list[str]:
    """`dvc repro` with so many megabytes free on the disk, one after the other, until it completes; what it said."""
    said = []
    for megabytes in free:
        resize(disk, megabytes)
        done = dvc(copy, "repro")
        if done.returncode == 0:
            break
        said.append(f"{megabytes} MB free: {said_by(done)}")
        if torn := torn_by_dvc(done.stderr):
            start_anew(copy, torn)
        print(said[-1], flush=True)
    return said


def flipped(content: bytes) -> bytes:
    """Of the same length, with 16 other bytes in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes(byte ^ 255 for byte in content[middle : middle + 16]) + content[middle + 16 :]


def clock(days: int) -> dict[str, str]:
    """The environment in which a process reads a clock that is so many days off; empty without faketime."""
    if not shutil.which("faketime"):
        return {}
    command = ["faketime", "-f", "+0d", "printenv", "LD_PRELOAD"]
    library = subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip()
    return {"LD_PRELOAD": library, "FAKETIME": f"{days:+d}d"}
