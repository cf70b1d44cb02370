"""A project with one stage that takes as long as a test wants, and runs of it in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

# `python demo.py RUN FILE`: writes a file, waits until FILE exists, writes another.
DEMO = """
import sys, time
from pathlib import Path
from epsilon_dpo.pipeline.stage.execution import run_stage

with run_stage("demo", sys.argv[1]) as stage:
    stage.scratch.mkdir(parents=True, exist_ok=True)
    (stage.scratch / "checkpoint").write_text("1")
    (stage.out / "first").write_text("1")
    print("started", flush=True)
    while not Path(sys.argv[2]).exists():
        time.sleep(0.02)
    (stage.out / "second").write_text("2")
"""
DVC_YAML = """
stages:
  demo:
    foreach: ${runs}
    do:
      cmd: python demo.py ${key}
      params: ["runs.${key}"]
"""


def make_demo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project, as the working folder."""
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "params.yaml").write_text("runs: {a: {x: 1}, b: {x: 1}}\n")
    (folder / "demo.py").write_text(DEMO)
    monkeypatch.chdir(folder)
    for name in ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens
    return folder


def second(run: str) -> "subprocess.CompletedProcess[str]":
    """An execution that is allowed to finish at once."""
    return subprocess.run([sys.executable, "demo.py", run, "demo.py"], capture_output=True, text=True)
