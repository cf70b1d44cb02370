"""Below one `dvc repro` MLflow is imported once, and each stage's record is written as by a process of its own."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes_of_tests import until_gone

from epsilon_dpo.pipeline.observability import child
from epsilon_dpo.pipeline.observability.child import Leader, start_process
from epsilon_dpo.pipeline.observability.tracker import Tracker

pytestmark = pytest.mark.slow


PATIENCE_S = 60.0
STAGE = """
import json, os, sys, time
import psutil
from epsilon_dpo.pipeline.observability import tracker
from epsilon_dpo.pipeline.stage.lifetime import dvc_above

tracker.FLUSH_TIMEOUT_S = 60.0
name = sys.argv[1]
tracker.start_early(dvc_above())
with tracker.Tracker(name, "f" * 64, {"seed": 1}, {}) as tracked:
    process = tracked._process
    while b"\\n" not in process._said:
        process.poll()
        time.sleep(0.01)
    fork = int(process._said.split()[0])
    with open("forks.jsonl", "a") as seen:
        seen.write(json.dumps({"fork": fork, "server": psutil.Process(fork).ppid()}) + "\\n")
    tracked.log_metrics({"loss": 1.0}, 1)
    if name == "killed":
        os.kill(os.getpid(), 9)
    if name == "failed":
        raise ZeroDivisionError("by nothing")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for variable in ("DVC_ROOT", "DVC_STAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    Path("stage.py").write_text(STAGE)
    subprocess.run(["dvc", "init", "--no-scm", "--quiet"], check=True)
    return tmp_path


def repro(*names: str) -> "subprocess.CompletedProcess[str]":
    stages = "".join(f"  {name}: {{cmd: {sys.executable} stage.py {name}, always_changed: true}}\n" for name in names)
    Path("dvc.yaml").write_text(f"stages:\n{stages}")
    command = ["dvc", "repro", "--keep-going", *names]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def forks() -> list[dict[str, int]]:
    return [json.loads(line) for line in Path("forks.jsonl").read_text().splitlines()]


def select(query: str) -> list[Any]:
    with sqlite3.connect("mlruns/mlflow.db") as store:
        return store.execute(query).fetchall()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each stage has a process of its own")
def test_stages_of_one_dvc_share_the_import_and_leave_no_process(project: Path) -> None:
    done = repro("first", "second", "failed", "killed")
    assert done.returncode != 0 and "ZeroDivisionError" in done.stderr, done.stderr
    assert "tracking:" not in done.stderr
    seen = forks()
    assert len({each["server"] for each in seen}) == 1 and len({each["fork"] for each in seen}) == 4
    pids = [pid for each in seen for pid in each.values()]
    until_gone(*pids, within_s=PATIENCE_S)  # the killed stage's fork had its record to end
    found = "select name, status from runs order by name"
    assert select(found) == [
        ("failed", "FAILED"),
        ("first", "FINISHED"),
        ("killed", "KILLED"),
        ("second", "FINISHED"),
    ]
    losses = select("select count(*) from metrics where key = '1_train/loss'")
    assert losses == [(3,)]  # a thread hands them over, and that of the killed stage had no time
    assert select("select value from tags where key = 'error'") == [("ZeroDivisionError: by nothing",)]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each stage has a process of its own")
def test_a_stage_whose_dvc_is_killed_while_mlflow_is_imported_has_its_record(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first seconds of `dvc repro`; the stage ends with `dvc`, and its row must say so."""
    leader = subprocess.Popen(["sleep", "600"])
    asked = Leader(leader.pid, psutil.Process(leader.pid).create_time())
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker.FLUSH_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker._waiting", [start_process(asked)])
    server = child._servers[-1]
    with pytest.raises(SystemExit), Tracker("fetch", "f" * 64, {}, {}):
        leader.kill()
        leader.wait()
        raise SystemExit
    assert select("select name, status from runs") == [("fetch", "KILLED")]
    until_gone(server.pid, within_s=PATIENCE_S)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each stage has a process of its own")
def test_a_process_with_the_number_of_a_dvc_that_is_gone_is_not_taken_for_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server would live as long as that process, which may be for ever."""
    asked = Leader(os.getpid(), psutil.Process().create_time() - 1.0)
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker.FLUSH_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker._waiting", [start_process(asked)])
    server = child._servers[-1]
    with Tracker("fetch", "f" * 64, {}, {}):
        pass
    assert select("select name, status from runs") == [("fetch", "FINISHED")]
    until_gone(server.pid, within_s=PATIENCE_S)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each stage has a process of its own")
def test_a_fork_is_given_up_and_its_server_outlives_no_leader(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A hanging store; the folder and the environment are those of whoever asks, not the server's."""
    leader = subprocess.Popen(["sleep", "600"])
    asked = Leader(leader.pid, psutil.Process(leader.pid).create_time())
    start_process(asked).stdin.close()  # type: ignore[union-attr]
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("DVC_EXP_NAME", "own")
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker.FLUSH_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker._waiting", [start_process(asked)])
    with Tracker("sft", "f" * 64, {}, {}):
        pass
    assert select("select value from tags where key = 'experiment'") == [("own",)]

    process = start_process(asked)
    while process.poll() is None and b"\n" not in process._said:  # type: ignore[union-attr]
        time.sleep(0.01)
    fork = int(process._said.split()[0])  # type: ignore[union-attr]
    server = psutil.Process(fork).ppid()
    os.kill(fork, signal.SIGSTOP)
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker.FLUSH_TIMEOUT_S", 0.5)
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker.TERMINATE_TIMEOUT_S", 0.5)
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker._waiting", [process])
    with Tracker("judge", "f" * 64, {}, {}):
        pass
    assert "the MLflow run of judge was not written within 0 s; the stage goes on." in capfd.readouterr().err
    until_gone(fork, within_s=PATIENCE_S)
    leader.kill()
    leader.wait()
    until_gone(server, within_s=PATIENCE_S)
