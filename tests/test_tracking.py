"""Tracking may fail in every way it likes: the stage must not notice. And what it records must be findable."""

import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.tracking import Tracker


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def stage(name: str = "align@dpo", **params: Any) -> Tracker:
    return Tracker(name, "f" * 64, params, {"out/sft": "a" * 64})


def select(project: Path, query: str) -> list[Any]:
    with sqlite3.connect(project / "mlruns" / "mlflow.db") as store:
        return store.execute(query).fetchall()


def test_a_run_has_what_makes_it_traceable(project: Path) -> None:
    output = project / "out/align/dpo"
    (output / "model").mkdir(parents=True)
    (output / "metrics.json").write_text("{}")
    (output / "model" / "model.safetensors").write_bytes(b"weights")
    with stage(seed=1, **{"runs.dpo": {"method": "dpo", "beta": 0.1}}) as tracker:
        for step in (1, 2, 3):
            tracker.log_metrics({"loss": 1.0 / step, "odd (name)@": 1.0, "nan": float("nan")}, step)
        tracker.set_tags({"policy_sha256": "abc"})
    with stage("score@dpo") as tracker:
        tracker.log_to_policy("abc", {"win_rate/sft": 0.7})

    assert select(project, "select name, status from runs order by start_time") == [
        ("align@dpo", "FINISHED"),
        ("score@dpo", "FINISHED"),
    ]
    row = "(select run_uuid from runs where name = 'align@dpo')"
    assert select(
        project, f"select step, value from metrics where key = 'loss' and run_uuid = {row} order by step"
    ) == [
        (1, 1.0),
        (2, 0.5),
        (3, 1 / 3),
    ]
    assert select(project, f"select value from latest_metrics where key = 'win_rate/sft' and run_uuid = {row}") == [
        (0.7,)
    ]
    params = dict(select(project, f"select key, value from params where run_uuid = {row}"))
    assert params == {"seed": "1", "run.method": "dpo", "run.beta": "0.1"}
    tags = dict(select(project, f"select key, value from tags where run_uuid = {row}"))
    assert {"stage": "align", "run": "dpo", "method": "dpo", "fingerprint": "f" * 64}.items() <= tags.items()
    assert {"python", "torch", "machine"} <= set(tags)
    assert select(project, "select name, digest from datasets") == [("out/sft", "a" * 32)]
    kept = [path.name for path in (project / "mlruns/artifacts").rglob("*") if path.is_file()]
    assert sorted(kept) == ["inputs.json", "inputs.json", "metrics.json"]


def test_a_report_tags_its_rows_and_rebuilds_lost_ones(project: Path) -> None:
    with stage() as tracker:
        tracker.set_tags({"policy_sha256": "old"})
    policy = {
        "run": "dpo",
        "policy_sha256": "new",
        "params": {"seed": 1, "runs.dpo": {"method": "dpo", "beta": 0.2}},
        "metrics": {"win_rate/sft": 0.6, "policy_sha256": "new"},
        "curve": [{"step": 2, "loss": 0.5}],
    }
    for _ in range(2):  # the second time the row is there
        with stage("report") as tracker:
            tracker.mark_compared([policy])
    tags = "select r.name, p.value, i.value from runs r join tags p on p.run_uuid = r.run_uuid and p.key = 'policy_sha256' "
    tags += "join tags i on i.run_uuid = r.run_uuid and i.key = 'in_report' order by p.value"
    assert select(project, tags) == [("align@dpo", "new", "true"), ("align@dpo", "old", "false")]
    assert select(project, "select step, value from metrics where key = 'loss'") == [(2, 0.5)]


def test_a_failed_and_a_killed_stage_are_marked(project: Path) -> None:
    with pytest.raises(ZeroDivisionError), stage():
        _ = 1 / 0
    killed = textwrap.dedent("""
        import os, signal, time
        from epsilon_dpo.tracking import Tracker
        tracker = Tracker("sft", "f", {}, {}).__enter__()
        time.sleep(0.2)
        print("ready", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    subprocess.run([sys.executable, "-c", killed], check=False)
    deadline = time.monotonic() + 30
    while (found := select(project, "select name, status from runs order by name")) != [
        ("align@dpo", "FAILED"),
        ("sft", "KILLED"),
    ]:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_a_closed_port_costs_seconds_and_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with stage() as tracker:
        for step in range(5000):  # more than a pipe holds
            tracker.log_metrics({"loss": 1.0}, step)
    assert capfd.readouterr().err.count("tracking: no MLflow record of align@dpo") == 1


def test_a_server_that_never_answers_does_not_block(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("epsilon_dpo.tracking.PATIENCE_S", 3.0)
        started = time.monotonic()
        with stage() as tracker:
            for step in range(5000):
                tracker.log_metrics({"loss": 1.0}, step)
            assert time.monotonic() - started < 2.0, "log_metrics waited for the server"
    assert capfd.readouterr().err.count("tracking:") == 1


def test_a_store_that_cannot_be_written_costs_one_line(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (project / "mlruns").write_text("a file where the folder should be")
    with stage() as tracker:
        tracker.log_metrics({"loss": 1.0})
    assert capfd.readouterr().err.count("tracking: no MLflow record") == 1


def test_four_stages_may_use_a_fresh_store_first(project: Path) -> None:
    """Without a lock around its creation, concurrent first use leaves a half-migrated store that nobody can open."""
    trackers = [stage(f"align@run{i}") for i in range(4)]
    for tracker in trackers:
        tracker.__enter__()
    for tracker in trackers:
        tracker.__exit__(None, None, None)
    assert [name for (name,) in select(project, "select name from runs order by name")] == [
        f"align@run{i}" for i in range(4)
    ]
