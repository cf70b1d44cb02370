"""Tracking may fail in every way it likes: the stage must not notice. And what it records must be findable."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock
from processes_of_tests import until

from epsilon_dpo.mlflow_writer.server import is_out, note_outage, note_success
from epsilon_dpo.pipeline.observability import child
from epsilon_dpo.pipeline.observability import tracker as tracking
from epsilon_dpo.pipeline.observability.child import Leader
from epsilon_dpo.pipeline.observability.tracker import Tracker, are_marked

PATIENCE_S = 120.0  # with a busy machine


@pytest.fixture
def project(shared: Path, leader: Leader, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(shared, leader, monkeypatch)


@pytest.fixture
def fresh(tmp_path: Path, leader: Leader, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(tmp_path, leader, monkeypatch)


def enter(folder: Path, leader: Leader, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each stage of this process has a fork, as below a `dvc`: to import MLflow for each took most of the time."""
    monkeypatch.setattr(tracking, "start_process", lambda _: child.start_process(leader))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker.FLUSH_TIMEOUT_S", 60.0)  # a busy machine
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker._waiting", [])  # a stage run by a test before
    return folder


def stage(name: str = "align@dpo", **params: Any) -> Tracker:
    deps = {"out/sft": "a" * 64, "src/epsilon_dpo/pipeline/stage": "b" * 64}
    return Tracker(name, "f" * 64, params, deps, [Path("out") / name.replace("@", "/")])


def select(project: Path, query: str) -> list[Any]:
    with sqlite3.connect(project / "mlruns" / "mlflow.db") as store:
        return store.execute(query).fetchall()


def statuses(project: Path, *names: str) -> list[Any]:
    return select(project, f"select name, status from runs where name in {(*names, '')} order by name")


@pytest.mark.slow
def test_the_process_started_early_is_the_one_that_records(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "start_process", child.start_process)  # one of its own
    tracking.start_early()
    (early,) = tracking._waiting
    with stage("align@early") as tracker:
        assert tracker._process is early
    assert tracking._waiting == [] and statuses(project, "align@early") == [("align@early", "FINISHED")]


@pytest.mark.slow
def test_a_stage_that_dies_on_import_leaves_no_process(project: Path) -> None:
    script = (
        "from epsilon_dpo.pipeline.observability import tracker; tracker.start_early(); "
        "print(tracker._waiting[0].pid); import no_such"
    )
    died = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "no_such" in died.stderr and "tracking:" not in died.stderr
    pid, patience = int(died.stdout), time.monotonic() + 60.0
    while Path(f"/proc/{pid}").exists() and time.monotonic() < patience:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_four_stages_may_use_a_fresh_store_first(fresh: Path) -> None:
    """Without a lock around its creation, concurrent first use leaves a half-migrated store that nobody can open."""
    trackers = [stage(f"kl@run{i}") for i in range(4)]
    for tracker in trackers:
        tracker.__enter__()
    for tracker in trackers:
        tracker.__exit__(None, None, None)
    assert statuses(fresh, *(f"kl@run{i}" for i in range(4))) == [(f"kl@run{i}", "FINISHED") for i in range(4)]


@pytest.mark.slow
def test_a_run_has_what_makes_it_traceable(project: Path) -> None:
    output = project / "out/align/traced"
    (output / "model").mkdir(parents=True)
    (output / "metrics.json").write_text("{}")
    (output / "model" / "model.safetensors").write_bytes(b"weights")
    before = int(time.time() * 1000)
    tracked = stage("align@traced", seed=1, **{"runs.traced": {"method": "dpo", "beta": 0.1}})
    after = int(time.time() * 1000)
    with tracked as tracker:
        for step in (1, 2, 3):
            tracker.log_metrics({"loss": 1.0 / step, "odd (name)@": 1.0, "nan": float("nan")}, step)
        until(lambda: select(project, "select 1 from metrics where key = '1_train/loss' and step = 3"), PATIENCE_S)
        tracker.set_tags({"policy_sha256": "abc"})
    with stage("score@traced") as tracker:
        tracker.log_to_policy("abc", {"win_rate/sft": 0.7})

    assert statuses(project, "align@traced", "score@traced") == [
        ("align@traced", "FINISHED"),
        ("score@traced", "FINISHED"),
    ]
    ((run_id, started),) = select(project, "select run_uuid, start_time from runs where name = 'align@traced'")
    assert before <= started <= after  # when the stage started, not when MLflow was imported
    where = f"where run_uuid = '{run_id}'"
    losses = select(project, f"select step, value from metrics {where} and key = '1_train/loss' order by step")
    assert losses == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    latest = dict(select(project, f"select key, value from latest_metrics {where}"))
    assert latest["win_rate/sft"] == 0.7 and {"1_train/nan", "1_train/odd _name__"} <= set(latest)
    assert latest["2_speed/seconds"] > 0 and latest["2_speed/peak_memory_megabytes"] > 10
    params = dict(select(project, f"select key, value from params {where}"))
    assert params == {"seed": "1", "run.method": "dpo", "run.beta": "0.1"}  # one column for all runs' betas
    tags = dict(select(project, f"select key, value from tags {where}"))
    assert {"stage": "align", "run": "traced", "method": "dpo", "fingerprint": "f" * 64}.items() <= tags.items()
    assert {"python", "torch", "machine"} <= set(tags)
    assert select(project, "select distinct name, digest from datasets") == [("out/sft", "a" * 32)]
    kept = (project / "mlruns/artifacts" / run_id).rglob("*")
    assert sorted(path.name for path in kept if path.is_file()) == ["inputs.json", "metrics.json"]


@pytest.mark.slow
def test_a_report_tags_its_rows_and_rebuilds_lost_ones(project: Path) -> None:
    with stage("align@mine") as tracker:
        tracker.set_tags({"policy_sha256": "old", "in_report": "true"})
    with stage("align@other") as tracker:
        tracker.set_tags({"policy_sha256": "new"})  # the same weights under another name are another row
    policy = {
        "run": "mine",
        "policy_sha256": "new",
        "params": {"seed": 1, "runs.mine": {"method": "dpo", "beta": 0.2}},
        "metrics": {"win_rate/sft": 0.6, "policy_sha256": "new", "eval_loss": 0.4, "steps": 3},
        "curve": [{"step": 2, "loss": 0.5}],
    }
    for _ in range(2):  # the second time the row is there
        with stage("report") as tracker:
            tracker.mark_compared([policy])
    rows = select(
        project,
        "select r.name, p.value, i.value from runs r join tags p on p.run_uuid = r.run_uuid "
        "join tags i on i.run_uuid = r.run_uuid "
        "where p.key = 'policy_sha256' and i.key = 'in_report' and p.value in ('old', 'new') order by 1, 2",
    )
    assert rows == [("align@mine", "new", "true"), ("align@mine", "old", "false"), ("align@other", "new", "false")]
    rebuilt = "(select run_uuid from tags where key = 'rebuilt')"
    assert select(project, f"select step, value from metrics where key = '1_train/loss' and run_uuid = {rebuilt}") == [
        (2, 0.5)
    ]
    assert select(project, f"select value from params where key = 'run.beta' and run_uuid = {rebuilt}") == [("0.2",)]
    evaluated = f"select step, value from metrics where key = '1_train/eval_loss' and run_uuid = {rebuilt}"
    assert select(project, evaluated) == [(3, 0.4)]


@pytest.mark.slow
def test_a_failed_and_a_killed_stage_are_marked(project: Path) -> None:
    with pytest.raises(ZeroDivisionError), stage("align@failed"):
        _ = 1 / 0
    # At once and to all processes of the group, as a terminal's Ctrl-C does; no other thread gets to run before.
    code = textwrap.dedent("""
        import os, sys, time
        from epsilon_dpo.pipeline.observability import tracker as tracking
        tracking.FLUSH_TIMEOUT_S = 60.0
        sys.setswitchinterval(60)
        name, end = sys.argv[1:]
        with tracking.Tracker(name, "f", {}, {}):
            os.killpg(os.getpid(), int(end))
            time.sleep(60)
    """)
    for name, end in (("interrupted", signal.SIGINT), ("killed", signal.SIGKILL)):
        command = [sys.executable, "-c", code, f"align@{name}", str(int(end))]
        ended = subprocess.run(command, stderr=subprocess.DEVNULL, start_new_session=True)
        assert ended.returncode == -end
    names = ("align@failed", "align@interrupted", "align@killed")
    assert ("ZeroDivisionError: division by zero",) in select(project, "select value from tags where key = 'error'")
    expected = list(zip(names, ("FAILED", "KILLED", "KILLED"), strict=True))
    deadline = time.monotonic() + 60  # its record is written after it is gone
    while statuses(project, *names) != expected:
        assert time.monotonic() < deadline, statuses(project, *names)
        time.sleep(0.2)


@pytest.mark.slow
def test_a_copied_project_does_not_write_into_the_original(
    fresh: Path, project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """MLflow stores absolute paths: artifacts of the copy would land in the original's folder."""
    with stage("align@original"):
        pass
    monkeypatch.chdir(fresh)
    (fresh / "mlruns").mkdir()
    (fresh / "mlruns/mlflow.db").write_bytes((project / "mlruns/mlflow.db").read_bytes())
    before = set((project / "mlruns/artifacts").rglob("*"))
    with stage("align@copied") as tracker:
        tracker.log_metrics({"loss": 1.0})
    assert statuses(fresh, "align@copied") == [("align@copied", "FINISHED")]
    assert before and set((project / "mlruns/artifacts").rglob("*")) == before
    assert capfd.readouterr().err.count("tracking:") == 1


@pytest.mark.slow
def test_a_folder_may_be_called_anything(tmp_path: Path, leader: Leader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that an address would be decoded from, or end at: all of the store lies in the project."""
    project = tmp_path / "DIR th ε '#%20?x" / "p"
    project.mkdir(parents=True)
    enter(project, leader, monkeypatch)
    (project / "out" / "sft").mkdir(parents=True)
    (project / "out" / "sft" / "metrics.json").write_text("{}")
    with stage("sft") as tracker:
        tracker.log_metrics({"loss": 1.0})
    assert statuses(project, "sft") == [("sft", "FINISHED")]
    assert {path.name for path in project.glob("mlruns/artifacts/*/artifacts/*")} == {"inputs.json", "metrics.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["DIR th ε '#%20?x"]
    assert [path.name for path in project.parent.iterdir()] == ["p"]


@pytest.mark.slow
def test_a_closed_port_costs_seconds_and_one_line(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with stage() as tracker:
        for step in range(5000):  # more than a pipe holds
            tracker.log_metrics({"loss": 1.0}, step)
    said = capfd.readouterr().err
    assert said.startswith("tracking: no MLflow record of align@dpo for now (ConnectionError: http://127.0.0.1:9: ")
    assert said.endswith(
        "refused); the stage goes on, and what is missing waits in mlruns/pending for a stage that reaches the server; "
        "this is not said again for 2 min.\n"
    )
    (waiting,) = (fresh / "mlruns/pending").glob("*.jsonl")
    assert len(waiting.read_text().splitlines()) == 1 + 5000 + 2  # open; artifacts and close
    assert said.count("\n") == 1


def said_by_a_stage(capfd: pytest.CaptureFixture[str]) -> str:
    with stage("kl@dpo") as tracker:
        tracker.log_metrics({"kl_fwd_rb": 1.0})
    return capfd.readouterr().err


@pytest.mark.slow
def test_a_server_that_failed_is_left_alone_for_a_while(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    marker = fresh / "mlruns/.unreachable"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    assert "refused" in said_by_a_stage(capfd) and "secret" not in marker.read_text()
    assert said_by_a_stage(capfd) == ""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:10")  # another server is asked
    assert "127.0.0.1:10" in said_by_a_stage(capfd) and said_by_a_stage(capfd) == ""
    os.utime(marker, (time.time() - 121,) * 2)
    assert "refused" in said_by_a_stage(capfd), "a repaired server would not be found again"


@pytest.mark.slow
def test_a_server_that_works_again_is_no_longer_marked(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "http://127.0.0.1:9"
    assert note_outage(uri) and is_out(uri) and is_out("http://user:password@127.0.0.1:9/")
    note_success(uri)
    assert not is_out(uri)
    assert not note_outage("sqlite:///mlruns/mlflow.db"), "a slow local store must not stop the records of a pipeline"


@pytest.mark.slow
def test_a_server_that_hangs_after_its_hello_costs_one_stage_its_patience(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_once() -> None:
            connection, _ = server.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
            connection.close()
            answered.set()

        answered = threading.Event()
        threading.Thread(target=answer_once, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker.FLUSH_TIMEOUT_S", 2.0)
        with stage("kl@dpo"):
            assert answered.wait(PATIENCE_S)
        assert "was not written within 2 s" in capfd.readouterr().err
        monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker.FLUSH_TIMEOUT_S", 60.0)
        started = time.monotonic()
        assert said_by_a_stage(capfd) == "" and time.monotonic() - started < 40.0


@pytest.mark.slow
@pytest.mark.campaign  # tests/mlflow_writer has the marks, this the command that sets them again
def test_rows_are_marked_without_a_run_and_known_to_be(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage("align@again") as tracker:
        tracker.set_tags({"policy_sha256": "again"})
    policy = {"run": "again", "policy_sha256": "again", "params": {}, "metrics": {"kl_fwd_rb": 2.0}, "curve": []}
    before = select(project, "select count(*) from runs")
    for _ in range(2):
        # Nothing of it is kept for later, so it is not given up, however long the rows of long trainings take.
        with monkeypatch.context() as impatient, Tracker("report", None, {}, {}) as tracker:
            impatient.setattr("epsilon_dpo.pipeline.observability.tracker.FLUSH_TIMEOUT_S", 0.0)
            tracker.mark_compared([policy])
    assert select(project, "select count(*) from runs") == before
    marked = "select r.name from runs r join tags t using (run_uuid) where t.key = 'in_report' and t.value = 'true'"
    assert select(project, marked) == [("align@again",)]
    again = "select m.value from metrics m join runs r using (run_uuid) where r.name = 'align@again'"
    assert select(project, again) == [(2.0,)]
    assert are_marked([policy]) and not are_marked([{**policy, "policy_sha256": "other"}])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert not are_marked([policy]), "a server may have lost what was marked on it"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with stage("align@again") as tracker:
        tracker.set_tags({"policy_sha256": "again"})  # the same weights in a newer row, which is to be marked instead
    assert not are_marked([policy])


@pytest.mark.slow
def test_a_server_that_never_answers_does_not_block(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with stage() as tracker:
            process = tracker._process
            until(lambda: process.poll() is None and b"\n" in process._said, PATIENCE_S)
            fork = psutil.Process(int(process._said.split()[0]))
            fork.suspend()
            goes_on = threading.Timer(PATIENCE_S, fork.resume)
            goes_on.start()
            for step in range(5000):
                tracker.log_metrics({"loss": 1.0}, step)
            assert goes_on.is_alive(), "log_metrics waited for its process"
            goes_on.cancel()
            fork.resume()
        assert time.monotonic() - started < 40.0, "the stage waited for MLflow's own time limits"
    assert "does not answer within 3 s); the stage goes on, and" in capfd.readouterr().err


@pytest.mark.slow
def test_a_child_that_hangs_is_given_up(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever it hangs on: here another process holds the lock of the store."""
    (fresh / "mlruns").mkdir()
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker.FLUSH_TIMEOUT_S", 3.0)
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker.TERMINATE_TIMEOUT_S", PATIENCE_S)
    with FileLock(fresh / "mlruns/.lock"):
        with stage() as tracker:
            process = tracker._process
            until(lambda: list(fresh.glob("mlruns/pending/*.lock")), PATIENCE_S)  # made before the store is opened
        assert process is not None and process.poll() is not None
    said = capfd.readouterr().err
    waits = "and waits in mlruns/pending for a later stage"
    assert said == f"tracking: the MLflow run of align@dpo was not written within 3 s {waits}; the stage goes on.\n"
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker.FLUSH_TIMEOUT_S", 60.0)
    with stage("kl@after"):
        pass
    assert statuses(fresh, "align@dpo", "kl@after") == [("align@dpo", "FINISHED"), ("kl@after", "FINISHED")]
    said = capfd.readouterr().err
    assert said == "tracking: the MLflow record of align@dpo, which had waited in mlruns/pending, is written.\n"


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["mlruns", "mlruns/mlflow.db"])
def test_a_store_that_cannot_be_used_costs_one_line(
    fresh: Path, broken: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file where the folder should be, and a store that is no database (which MLflow would try for 100 s)."""
    (fresh / broken).parent.mkdir(exist_ok=True)
    (fresh / broken).write_text("neither a folder nor a database\n" * 100)
    started = time.monotonic()
    with stage() as tracker:
        tracker.log_metrics({"loss": 1.0})
    assert time.monotonic() - started < 40.0, "the stage ran into its timeout instead of being informed"
    assert capfd.readouterr().err.count("tracking: no MLflow record") == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", ["64k", "1400k"])
def test_a_store_on_a_full_disk_costs_one_line(fresh: Path, size: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Full when the store is made, and when metrics are written: MLflow logs a traceback beside what it raises."""
    mlruns = fresh / "mlruns"
    mlruns.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mlruns)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        with stage() as tracker:
            for step in range(1000):
                tracker.log_metrics({f"loss/{step}/{number}": 1.0 for number in range(20)}, step)
    finally:
        subprocess.run(["umount", "--lazy", str(mlruns)], check=True)  # a fork says its end before its files are closed
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("tracking: no MLflow record of align@dpo from here on")
    assert "disk is full" in line or "No space left" in line


def test_mlflow_is_not_imported_by_a_stage() -> None:
    code = (
        "import sys, epsilon_dpo.pipeline.observability.tracker; "
        "print(sorted(set(sys.modules) & {'mlflow', 'torch', 'filelock', 'pandas'}))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


@pytest.mark.slow
def test_nothing_is_marked_before_there_are_results(fresh: Path) -> None:
    (fresh / "dvc.lock").write_text("schema: '2.0'\n")
    base = "{source: pretrained, path: m, revision: null, dtype: float32, chat_template: own, stop_token: x}"
    blocks = f"report: {{examples: 1}}\nmargins: null\nscorer: null\nbase: {base}\n"
    params = f"runs: {{dpo: {{method: dpo, beta: 0.1}}}}\n{blocks}"
    (fresh / "params.yaml").write_text(params)
    done = subprocess.run(
        [sys.executable, "-m", "epsilon_dpo.report.page.tracked"], text=True, capture_output=True, check=True
    )
    assert done.stdout + done.stderr == "" and not (fresh / "mlruns").exists()
