"""What waits in mlruns/pending: `make repro` and `make ui` write all of it, and no record stands in another's way."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from direct_tracker import Direct
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from processes_of_tests import until

from epsilon_dpo.mlflow_writer import pending, process
from epsilon_dpo.mlflow_writer.backlog import write_backlog
from epsilon_dpo.mlflow_writer.delivery import Backlog, write_all
from epsilon_dpo.mlflow_writer.outbox import Outbox
from epsilon_dpo.mlflow_writer.record import Record
from epsilon_dpo.mlflow_writer.store import open_store
from epsilon_dpo.pipeline.observability.tracker import deliver_waiting, now

pytestmark = pytest.mark.slow
DEAD = "http://127.0.0.1:9"


@pytest.fixture
def project(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shared)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for file in shared.glob("mlruns/pending/*"):
        file.unlink()
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker._waiting", [])
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker.FLUSH_TIMEOUT_S", 60.0)  # a busy machine
    return shared


def metrics(step: int, **values: float) -> dict[str, Any]:
    return {"kind": "metrics", "metrics": values, "step": step, "at": now()}


def leave(name: str, *messages: dict[str, Any], store: str = "") -> None:
    """What a stage would, whose record could not be written."""
    opening = {"name": name, "fingerprint": "f" * 64, "params": {"seed": 1}, "inputs": {}, "at": now()}
    close = {"kind": "close", "status": "FINISHED", "at": now()}
    assert pending.keep(opening | {"execution": f"of_{name}"}, [*messages, close], store)


def rows(name: str) -> list[Run]:
    store = open_store()
    return list(store.client.search_runs([store.experiment], f"attributes.run_name = '{name}'"))


def command() -> str:
    """What the last command of `make repro` says."""
    done = subprocess.run([sys.executable, "-m", "epsilon_dpo.report.page.tracked"], text=True, capture_output=True)
    assert done.returncode == 0 and done.stdout == ""
    return done.stderr


def test_all_that_waits_is_written_and_said_in_one_line(project: Path) -> None:
    for run in ("one", "two"):
        leave(f"kl@{run}", metrics(0, kl_fwd_rb=2.0))
    leave("kl@three", store=DEAD)
    store = open_store()
    tags = {"project": pending.project(), "execution": "dead"}
    dead = store.client.create_run(store.experiment, run_name="dead", tags=tags)
    assert command() == f"tracking: mlruns/pending: 2 written, 1 still waiting (1 for {DEAD}).\n"
    for run in ("one", "two"):
        (row,) = rows(f"kl@{run}")
        assert row.info.status == "FINISHED" and row.data.metrics == {"kl_fwd_rb": 2.0}
    assert [file.name for file in pending.folder().glob("*.jsonl")] == ["of_kl@three.jsonl"]
    assert store.client.get_run(dead.info.run_id).info.status == "KILLED"


def test_what_waits_for_an_experiment_that_was_deleted_waits_until_it_is_restored(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Which takes one click on MLflow's page."""
    store = open_store()
    store.client.delete_experiment(store.experiment)
    try:
        leave("kl@patient")
        write_backlog("")
        waits = "0 written, 1 still waiting (MlflowException: the experiment epsilon-dpo is deleted; `"
        assert waits in capfd.readouterr().err
    finally:
        store.client.restore_experiment(store.experiment)
    write_backlog("")
    assert capfd.readouterr().err == "tracking: mlruns/pending: 1 written, 0 still waiting.\n"


def test_a_server_that_cannot_be_reached_is_one_line_and_all_waits(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)
    for run in ("one", "two"):
        leave(f"kl@{run}", store=DEAD)
    said = command()
    assert said.startswith(f"tracking: mlruns/pending: 0 written, 2 still waiting (ConnectionError: {DEAD}: ")
    assert said.count("\n") == 1 and len(list(pending.folder().glob("*.jsonl"))) == 2


def test_nothing_is_started_where_nothing_waits(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a process is started")

    monkeypatch.setattr(subprocess, "run", fail)
    deliver_waiting()
    leave("kl@one")
    with pytest.raises(AssertionError, match="a process is started"):
        deliver_waiting()


def test_a_refused_row_is_lost_and_those_of_its_call_are_not(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    leave("kl@odd", *(metrics(step, **{"x" * (300 if step == 2 else 3): 1.0 * step}) for step in range(1, 5)))
    write_backlog("")
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2 and said[1] == "tracking: mlruns/pending: 1 written, 0 still waiting."
    assert said[0].startswith("tracking: MLflow does not take metrics of kl@odd (MlflowException: ")
    (row,) = rows("kl@odd")
    history = open_store().client.get_metric_history(row.info.run_id, "1_train/xxx")
    assert [point.step for point in history] == [1, 3, 4] and row.info.status == "FINISHED"


def test_a_running_stage_loses_no_more_than_a_refused_row(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Direct("kl@running", "f" * 64, {}, {}) as tracker:
        for step in range(1, 5):
            tracker.log_metrics({"x" * (300 if step == 2 else 3): 1.0}, step)
    assert capfd.readouterr().err.count("tracking: MLflow does not take metrics of kl@running (") == 1
    (row,) = rows("kl@running")
    history = open_store().client.get_metric_history(row.info.run_id, "1_train/xxx")
    assert [point.step for point in history] == [1, 3, 4] and row.info.status == "FINISHED"


def test_only_the_rows_of_a_refused_call_are_written_one_by_one() -> None:
    calls: list[list[int]] = []

    class Rows:
        def metric_rows(self, rows: list[dict[str, Any]]) -> None:
            calls.append([row["step"] for row in rows])
            if 7 in calls[-1]:
                raise MlflowException("a row is refused", INVALID_PARAMETER_VALUE)

    refused: list[int] = []
    waiting = deque(metrics(step) for step in range(120))
    write_all(Rows(), waiting, DEAD, lambda message, _: refused.append(message["step"]))  # type: ignore[arg-type]
    assert refused == [7] and not waiting
    assert calls == [[*range(50)], *([step] for step in range(50)), [*range(50, 100)], [*range(100, 120)]]


@pytest.fixture
def answering() -> Iterator[HTTPServer]:
    """Says that it is there. What is written goes to the local store."""

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fail_at(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's 500 to the metrics of this stage, always."""

    def metric_rows(record: Record, rows: list[dict[str, Any]]) -> None:
        if open_store().client.get_run(record.run_id).info.run_name == name:
            raise MlflowException("boom", INTERNAL_ERROR)
        written(record, rows)

    written = Record.metric_rows
    monkeypatch.setattr(Record, "metric_rows", metric_rows)


def test_a_record_at_which_the_server_always_fails_waits_and_others_do_not(
    project: Path, answering: HTTPServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    open_store()
    uri = f"http://127.0.0.1:{answering.server_port}"
    for number, run in enumerate(("poison", "behind")):
        leave(f"kl@{run}", metrics(0, kl_fwd_rb=2.0), store=uri)
        os.utime(pending.kept(f"of_kl@{run}"), (number, number))
    capfd.readouterr()
    with monkeypatch.context() as while_it_fails:
        fail_at("kl@poison", while_it_fails)
        write_backlog(uri)
    assert capfd.readouterr().err == (
        "tracking: mlruns/pending: 1 written, 1 still waiting (1 that a store fails to write, unlike others: "
        "kl@poison (MlflowException: boom)).\n"
    )
    assert [file.name for file in pending.folder().glob("*.jsonl")] == ["of_kl@poison.jsonl"]
    assert rows("kl@behind")[0].info.status == "FINISHED"
    write_backlog(uri)
    (row,) = rows("kl@poison")
    assert row.info.status == "FINISHED" and row.data.metrics == {"kl_fwd_rb": 2.0}


def test_what_another_stage_has_written_meanwhile_leaves_no_lock(project: Path) -> None:
    """Two stages deliver side by side after an outage: each record left an empty file for ever."""
    leave("kl@one")
    backlog = Backlog("")
    pending.forget("of_kl@one")
    assert backlog.deliver() and not backlog.written and not backlog.held
    assert not list(pending.folder().iterdir())


def test_a_server_that_hangs_at_each_record_is_not_asked_for_all(
    project: Path, answering: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers reads within seconds, and no write."""
    open_store()
    uri = f"http://127.0.0.1:{answering.server_port}"
    asked: list[str] = []

    def hang(opening: dict[str, Any], *_: Any) -> None:
        asked.append(opening["name"])
        time.sleep(0.2)
        raise MlflowException("timed out", INTERNAL_ERROR)

    for run in range(6):
        leave(f"kl@{run}", store=uri)
    monkeypatch.setattr("epsilon_dpo.mlflow_writer.delivery._write_record", hang)
    monkeypatch.setattr("epsilon_dpo.mlflow_writer.delivery.STUCK_S", 0.5)
    with pytest.raises(MlflowException, match="timed out"):
        Backlog(uri).deliver()
    assert len(asked) <= 3 and len(list(pending.folder().glob("*.jsonl"))) == 6


def run_beside_what_others_left(
    said: Callable[[list[str]], Iterator[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> tuple[Outbox, list[str]]:
    """A stage beside two records of others, and the order in which all was written.

    Args:
        said: the stage's messages; it is given what is written so far.
    """
    for number, run in enumerate(("one", "two")):
        leave(f"kl@{run}")
        os.utime(pending.kept(f"of_kl@{run}"), (number, number))
    order: list[str] = []
    outbox = Outbox("")
    assert outbox.is_unanswered()

    def write(backlog: Backlog, file: Path) -> None:
        order.append(file.stem)
        if file.stem == "of_kl@one":  # which takes until the stage has said something, or that it ends
            until(lambda: not outbox._inbox.empty(), within_s=60.0)

    monkeypatch.setattr(Backlog, "_deliver", write)
    monkeypatch.setattr(Record, "metric_rows", lambda *_: order.append("own"))
    opening = {"kind": "open", "name": "kl@own", "fingerprint": "f" * 64, "params": {}, "inputs": {}, "at": now()}
    outbox.listen(json.dumps(m) for m in itertools.chain([opening | {"execution": "own", "pid": None}], said(order)))
    outbox.run()
    outbox.keep()
    return outbox, order


OWN = [metrics(0, kl_fwd_rb=2.0), {"kind": "close", "status": "FINISHED", "at": 0}]


def test_what_others_left_does_not_hold_up_what_a_stage_says(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(order: list[str]) -> Iterator[dict[str, Any]]:
        while not order:
            time.sleep(0.01)
        yield from OWN

    outbox, order = run_beside_what_others_left(said, monkeypatch)
    assert order == ["of_kl@one", "own", "of_kl@two"]
    assert not outbox.is_unanswered(), "a stage that is given up now would say that the server is out"


def test_the_end_of_a_stage_leaves_nothing_of_others_that_there_is_time_for(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipe ends while the first of them is written, when all of the stage's own is."""

    def said(order: list[str]) -> Iterator[dict[str, Any]]:
        yield from OWN
        while len(order) < 2:
            time.sleep(0.01)

    _, order = run_beside_what_others_left(said, monkeypatch)
    assert order == ["own", "of_kl@one", "of_kl@two"]


def test_a_stage_that_gives_up_while_its_record_is_being_kept_loses_none_of_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal ended the writing, of which a part was left that nothing reads."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{DEAD}/own")  # which no other test has found dead
    opening = {"kind": "open", "name": "kl@own", "fingerprint": "f" * 64, "params": {}, "inputs": {}, "at": now()}
    messages = [opening | {"execution": "own", "pid": None}, *OWN]
    write = Path.write_text

    def given_up(file: Path, text: str, encoding: str) -> int:
        if file.name == "own.partial":
            os.kill(os.getpid(), signal.SIGTERM)
        return write(file, text, encoding)

    monkeypatch.setattr(Path, "write_text", given_up)
    before = signal.signal(signal.SIGTERM, process._give_up)
    try:
        process.serve(json.dumps(message) for message in messages)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [file.name for file in pending.folder().glob("*.jsonl")] == ["own.jsonl"]
    assert len((pending.folder() / "own.jsonl").read_text().splitlines()) == 1 + len(OWN)


def test_a_server_that_goes_away_keeps_all_that_waits(
    project: Path, answering: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at("kl@poison", monkeypatch)
    uri = f"http://127.0.0.1:{answering.server_port}"
    for run in ("poison", "behind"):
        leave(f"kl@{run}", metrics(0, kl_fwd_rb=2.0), store=uri)
    answering.shutdown()
    answering.server_close()
    backlog = Backlog(uri)
    with pytest.raises(MlflowException, match="boom"):
        backlog.deliver()
    assert not backlog.stuck and len(list(pending.folder().glob("*.jsonl"))) == 2 - len(backlog.written)
