"""A stage ends with the `dvc` that started it, and with nothing else."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from demo_stage import make_demo, second

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_demo(tmp_path, monkeypatch)


# In the place of dvc: it starts a stage through a shell, which lives on as long as the stage, or becomes the stage.
FAKE_DVC = textwrap.dedent("""
    import os, subprocess, sys, threading
    run = lambda: subprocess.run([*sys.argv[1:]], env=os.environ | {"DVC_STAGE": "demo@a"})
    thread = threading.Thread(target=run)  # as dvc's queue may
    thread.start()
    thread.join()
""")


SHELLS = ["exec {}", "{}; exit $?", "sh -c '{}; exit $?'; exit $?"]


# FAKE_DVC handles no signal, so one that a process may handle is enough.
@pytest.mark.parametrize(
    ("shell", "end"), [*((shell, signal.SIGKILL) for shell in SHELLS), (SHELLS[1], signal.SIGTERM)]
)
def test_a_stage_ends_with_the_dvc_that_started_it(project: Path, shell: str, end: int) -> None:
    command = shell.format(f"{sys.executable} demo.py a go")
    dvc = subprocess.Popen(
        [sys.executable, "-c", FAKE_DVC, "sh", "-c", command],
        text=True,
        stdout=subprocess.PIPE,
        stderr=(project / "said").open("w"),
    )
    assert dvc.stdout is not None and dvc.stdout.readline() == "started\n"
    stage = int((project / "scratch/locks/demo@a.lock").read_text().split()[0])
    time.sleep(1.5)  # it looks while dvc lives, and goes on
    assert dvc.poll() is None and Path(f"/proc/{stage}").exists()
    dvc.send_signal(end)
    assert dvc.wait(60) == -end
    deadline = time.monotonic() + 60
    while is_running(stage):
        assert time.monotonic() < deadline, "the stage outlives its dvc"
        time.sleep(0.1)
    said = (project / "said").read_text()
    assert f"stage demo@a ends: the dvc that started it, pid {dvc.pid}, is gone." in said and "Traceback" not in said
    assert second("a").returncode == 0


def is_running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_a_stage_started_by_hand_outlives_its_shell(project: Path) -> None:
    command = f"{sys.executable} demo.py a go >said 2>&1 & sleep 0.2; while ! grep -q started said; do sleep 0.1; done"
    subprocess.run(["sh", "-c", command], check=True)
    time.sleep(2.5)
    assert is_running(int((project / "scratch/locks/demo@a.lock").read_text().split()[0]))
    (project / "go").touch()
    deadline = time.monotonic() + 60
    while not (project / "out/demo/a/second").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
