"""A server that is stopped, killed and started again while a stage is tracked: its record is whole in the end."""

import random
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from direct_tracker import Direct
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from tracking_server import PATIENCE_S, Server

from epsilon_dpo.mlflow_writer import pending
from epsilon_dpo.mlflow_writer.outbox import RETRY_S
from epsilon_dpo.mlflow_writer.store import open_store
from epsilon_dpo.pipeline.observability.child import Leader, start_process
from epsilon_dpo.pipeline.observability.tracker import Tracker

pytestmark = pytest.mark.slow
STEPS = 120


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    (tmp_path / "project").mkdir()
    made = Server(tmp_path / "server")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker._waiting", [])
    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker.FLUSH_TIMEOUT_S", 60.0)
    yield made
    made.stop()


def train(
    name: str,
    steps: int = STEPS,
    pause: float = 0.1,
    kind: type[Tracker] = Tracker,
    before_the_last_ten: Callable[[], None] = lambda: None,
) -> None:
    out = Path("out") / name.replace("@", "/")
    with kind(name, "f" * 64, {"seed": 1}, {"out/sft": "a" * 64}, [out]) as tracker:
        for step in range(1, steps + 1):
            if step == steps - 9:
                before_the_last_ten()
            tracker.log_metrics({"loss": 1.0 / step, "beta": 0.1}, step)
            time.sleep(pause)
        out.mkdir(parents=True)
        (out / "metrics.json").write_text("{}")
        (out / "samples.jsonl").write_text("{}\n")
        tracker.log_metrics({"steps": float(steps)})
        tracker.set_tags({"policy_sha256": name})


def runs(server: Server) -> dict[str, list[Run]]:
    """By name, the deleted ones left out."""
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("epsilon-dpo")
    found: dict[str, list[Run]] = {}
    for run in client.search_runs([experiment.experiment_id]) if experiment else []:
        found.setdefault(str(run.info.run_name), []).append(run)
    return found


def assert_whole(server: Server, name: str, steps: int = STEPS) -> None:
    (run,) = runs(server)[name]
    assert run.info.status == "FINISHED" and run.data.tags["policy_sha256"] == name
    client = MlflowClient(server.uri)
    points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "1_train/loss")]
    assert sorted(points) == [(step, 1.0 / step) for step in range(1, steps + 1)]
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"inputs.json", "metrics.json"} <= artifacts and "samples.jsonl" not in artifacts


@contextmanager
def beside(work: threading.Thread) -> Iterator[None]:
    work.start()
    yield
    work.join()


def deliver_rest() -> None:
    """Short stages until nothing waits: a server that was frozen a moment ago may answer later than the limit."""
    deadline = time.monotonic() + PATIENCE_S
    while list(pending.folder().glob("*.jsonl")):
        assert time.monotonic() < deadline, "what waits is not delivered"
        (Path("mlruns") / ".unreachable").unlink(missing_ok=True)  # within OUTAGE_S the server would not be asked
        train(f"judge@{uuid.uuid4().hex}", steps=1)


def is_back(server: Server) -> None:
    """Wait until it answers and a stage that still runs has asked it again."""
    deadline = time.monotonic() + PATIENCE_S
    while not server.is_up():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(RETRY_S)


MOMENTS = [0, *(pytest.param(seed, marks=pytest.mark.campaign) for seed in range(1, 10))]


@pytest.mark.parametrize("seed", MOMENTS)
def test_a_server_stopped_at_any_moment_has_the_whole_record(server: Server, seed: int) -> None:
    """For seconds (it hangs, and goes on) and for longer (it is killed, and started again)."""
    draw = random.Random(seed)
    killed = seed % 2 == 0
    server.start()

    def disturb() -> None:
        time.sleep(draw.uniform(0.0, 0.1 * STEPS))
        if killed:
            server.stop()
            time.sleep(draw.uniform(0.0, 15.0))
            server.start()
        else:
            server.signal(signal.SIGSTOP)
            time.sleep(draw.uniform(2.0, 20.0))
            server.signal(signal.SIGCONT)

    with beside(threading.Thread(target=disturb)):
        train("align@dpo")
    train("kl@dpo", steps=3)
    deliver_rest()
    assert_whole(server, "align@dpo")
    assert_whole(server, "kl@dpo", 3)
    assert not list(pending.folder().iterdir())


@pytest.mark.campaign
def test_a_server_that_is_away_for_minutes_has_the_whole_record(server: Server) -> None:
    """Of a training that goes on for longer, and of stages that begin and end meanwhile."""
    server.start()

    def disturb() -> None:
        time.sleep(5.0)
        server.stop()
        away = time.monotonic()
        for run in ("sft", "dpo"):  # the second after OUTAGE_S, when the server is asked once more
            train(f"kl@{run}", steps=3)
            time.sleep(max(0.0, away + 140.0 - time.monotonic()))
        time.sleep(max(0.0, away + 180.0 - time.monotonic()))
        server.start()

    with beside(threading.Thread(target=disturb)):
        train("align@dpo", pause=1.8)
    deliver_rest()
    for name, steps in (("align@dpo", STEPS), ("kl@sft", 3), ("kl@dpo", 3)):
        assert_whole(server, name, steps)
    assert not list(pending.folder().iterdir())


def test_a_server_that_was_down_when_the_stage_began(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    """It comes back while the stage runs; a stage that ended before is written by the next one."""
    train("sft", steps=3)
    assert "no MLflow record of sft for now" in capfd.readouterr().err
    with beside(threading.Thread(target=server.start)):
        train("align@dpo", steps=40, before_the_last_ten=lambda: is_back(server))
    deliver_rest()
    assert_whole(server, "align@dpo", 40)
    assert_whole(server, "sft", 3)
    assert "record of sft, which had waited in mlruns/pending, is written" in capfd.readouterr().err
    assert not list(pending.folder().iterdir())


def test_a_refused_login_is_no_outage(
    server: Server, leader: Leader, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The next stage says it again, and nothing is lost."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    monkeypatch.setattr("epsilon_dpo.pipeline.observability.tracker.start_process", lambda _: start_process(leader))

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 401)
            self.end_headers()
            self.wfile.write(b"You are not authenticated.")

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None: ...

    refusing = HTTPServer(("127.0.0.1", server.port), Refusing)
    threading.Thread(target=refusing.serve_forever, args=(0.02,), daemon=True).start()
    for name in ("sft", "kl@dpo"):
        train(name, steps=2)
        said = capfd.readouterr().err
        assert f"the MLflow server refuses {name} (" in said and "set MLFLOW_TRACKING_USERNAME and" in said
        assert said.count("\n") == 1
    assert len(list(pending.folder().glob("*.jsonl"))) == 2 and not Path("mlruns/.unreachable").exists()
    refusing.shutdown()
    refusing.server_close()


def test_a_bucket_that_this_client_cannot_write_costs_the_files_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a server whose clients send files to the bucket themselves; also of a record that waited."""
    train("sft", steps=3, pause=0.0)  # there is no server yet
    server.start()
    MlflowClient(server.uri).create_experiment("epsilon-dpo", artifact_location="s3://bucket/x")
    monkeypatch.setitem(sys.modules, "boto3", None)
    Path("mlruns/.unreachable").unlink()
    capfd.readouterr()
    train("kl@dpo", steps=3, pause=0.0, kind=Direct)
    found = runs(server)
    for name in ("sft", "kl@dpo"):
        (row,) = found[name]
        assert row.info.status == "FINISHED" and row.data.metrics["steps"] == 3.0
    assert capfd.readouterr().err.count("MLflow gets no files from here, inputs.json first (ModuleNotFoundError") == 2
    assert not list(pending.folder().iterdir())


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's own store, and time for a busy machine."""
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("epsilon_dpo.mlflow_writer.outbox.OTHERS_S", 60.0)


def test_what_a_power_cut_left_of_a_record_costs_the_next_stage_nothing(
    local: None, capfd: pytest.CaptureFixture[str]
) -> None:
    pending.folder().mkdir(parents=True)
    for name, content in (("empty", ""), ("torn", '{"name": "sf')):
        pending.kept(name).write_text(content)
    train("sft", steps=3, pause=0.0, kind=Direct)
    assert sorted(file.name for file in pending.folder().iterdir()) == ["empty.refused", "torn.refused"]
    assert capfd.readouterr().err.count("MLflow does not take the record in ") == 2
    store = open_store()
    (row,) = store.client.search_runs([store.experiment])
    assert row.info.status == "FINISHED" and row.data.metrics["1_train/loss"]


def test_a_row_whose_process_is_gone_is_ended(local: None) -> None:
    """The machine went down; a row that a living process writes, and one of another project, go on."""
    store = open_store()
    ours = {"project": pending.project()}
    rows = {
        name: store.client.create_run(store.experiment, run_name=name, tags=tags | {"execution": name}).info.run_id
        for name, tags in (("dead", ours), ("living", ours), ("other", {"project": "another"}))
    }
    pending.folder().mkdir(parents=True)
    with FileLock(pending.folder() / "living.lock"):
        train("sft", steps=1, kind=Direct)
    found = {name: store.client.get_run(run_id).info.status for name, run_id in rows.items()}
    assert found == {"dead": "KILLED", "living": "RUNNING", "other": "RUNNING"}
