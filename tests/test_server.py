"""The MLflow server of compose.yaml from packages: Postgres, a store that speaks S3, a login; and the move to it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from postgres import ABSENT, free_port, postgres, programs
from whole_pipeline import BIN, ROOT, copy_project, dvc, environment, with_preset

from epsilon_dpo.pipeline.stage.params import read_yaml

pytestmark = pytest.mark.slow


SERVICES = read_yaml(ROOT / "compose.yaml")["services"]
SECRETS = {"S3_SECRET_KEY": "testing1", "MLFLOW_PASSWORD": "a long password", "MLFLOW_SECRET_KEY": "signs forms"}
NEEDS_POSTGRES = pytest.mark.skipif(programs() is None, reason=ABSENT)


def settings(**changes: str) -> dict[str, str]:
    """What compose.yaml gives to its server, its variables filled in, with `changes` for where things are here."""
    filled = {}
    for name, value in SERVICES["mlflow"]["environment"].items():
        plain = re.sub(r"\$\{(\w+):\+[^}]*\}|\$\{(\w+):-\}", "", value)
        filled[name] = re.sub(r"\$\{(\w+)(:\?[^}]*)?\}", lambda found: SECRETS.get(found[1], "unset"), plain)
    assert set(changes) <= set(filled) | {"PORT"}
    return filled | changes


def script(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "docker" / name), *arguments]
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | environment
    return subprocess.run(command, env=env, text=True, capture_output=True, check=False)


class Site(NamedTuple):
    """Where Postgres and the store are, and a project in which the stage check is done."""

    database: str
    s3: str
    project: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from moto.server import ThreadedMotoServer

    project = copy_project(tmp_path_factory.mktemp("server") / "project")
    with_preset(project, "smoke", {})
    done = dvc(project, "repro", "check")
    assert done.returncode == 0, done.stderr
    store = ThreadedMotoServer(port=0)
    store.start()
    host, port = store.get_host_and_port()
    with postgres("mlflow", "moved") as address:
        yield Site(address, f"http://{host}:{port}", project)
    store.stop()


@pytest.fixture
def own_store(tmp_path: Path) -> Path:
    """A project with two finished stages in its own mlruns/."""
    project = copy_project(tmp_path / "project", tracked=True)
    with_preset(project, "smoke", {})
    done = dvc(project, "repro", "fetch")
    assert done.returncode == 0, done.stderr
    # On a loaded machine such short stages end before their store is made, and leave their records waiting.
    backlog = [sys.executable, "-m", "epsilon_dpo.mlflow_writer.backlog"]
    subprocess.run(backlog, cwd=project, env=environment(project), check=True)
    return project


@contextmanager
def server(settings: dict[str, str]) -> Iterator[str]:
    """mlflow_server.py until it answers; its address."""
    address = f"http://localhost:{settings['PORT']}"
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | settings
    process = subprocess.Popen([sys.executable, str(ROOT / "docker/mlflow_server.py")], env=env, start_new_session=True)
    try:
        until = time.monotonic() + 180
        while True:
            assert process.poll() is None and time.monotonic() < until, "the server does not come up"
            try:
                if requests.get(f"{address}/health", timeout=5).ok:
                    break
            except requests.RequestException:
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()  # mlflow hands it on to its workers
        process.wait(60)


def client_of(address: str, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRETS["MLFLOW_PASSWORD"])
    return MlflowClient(address)


def runs_of(client: MlflowClient) -> dict[str, tuple]:
    """What the experiment's runs hold, by id."""
    experiment = client.get_experiment_by_name("epsilon-dpo")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    return {
        run.info.run_id: (run.info.run_name, run.info.status, run.data.params, run.data.metrics, run.data.tags)
        for run in found
    }


def objects(s3: str) -> set[str]:
    import boto3

    keys = {"aws_access_key_id": "mlflow", "aws_secret_access_key": SECRETS["S3_SECRET_KEY"]}
    store = boto3.client("s3", endpoint_url=s3, region_name="us-east-1", **keys)
    return {row["Key"] for row in store.list_objects_v2(Bucket="mlflow").get("Contents", [])}


@NEEDS_POSTGRES
def test_a_stage_reports_to_the_server_and_strangers_cannot(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    at = settings(
        MLFLOW_BACKEND_STORE_URI=f"{site.database}/mlflow",
        MLFLOW_S3_ENDPOINT_URL=site.s3,
        HOST="127.0.0.1",
        PORT=str(free_port()),
    )
    with server(at) as address:
        search = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
        assert requests.get(search, timeout=30).status_code == 401
        login = ("admin", SECRETS["MLFLOW_PASSWORD"])
        assert requests.get(search, auth=login, timeout=30).ok
        assert requests.get(search, auth=login, headers={"Host": "evil.example"}, timeout=30).status_code == 403
        password = {"MLFLOW_TRACKING_USERNAME": login[0], "MLFLOW_TRACKING_PASSWORD": login[1]}
        client = client_of(address, monkeypatch)
        client.search_experiments()  # its first answers take seconds, for which a short stage would not wait
        for _ in range(4):  # on a loaded machine the server takes longer than the stage waits for it
            (site.project / "mlruns/.unreachable").unlink(missing_ok=True)
            done = dvc(site.project, "repro", "-f", "-s", "fetch", MLFLOW_TRACKING_URI=address, **password)
            assert done.returncode == 0, done.stderr
            if "tracking" not in done.stderr:
                break
        run = next(
            run for run, (name, status, *_) in runs_of(client).items() if (name, status) == ("fetch", "FINISHED")
        )
        assert client.get_run(run).data.params["fetch.source"] == "synthetic", done.stderr
        client.log_text(run, "an answer", "answers.txt")
        assert f"artifacts/1/{run}/artifacts/answers.txt" in objects(site.s3)
        colleague = {"username": "ada", "password": "at least twelve characters"}
        assert requests.post(f"{address}/api/2.0/mlflow/users/create", json=colleague, auth=login, timeout=30).ok
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", colleague["username"])
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", colleague["password"])
        MlflowClient(address).set_tag(run, "read_by", "ada")
        with pytest.raises(MlflowException, match="Permission denied"):
            MlflowClient(address).delete_experiment("1")
        client_of(address, monkeypatch)
    with server(at) as address:  # what is there is kept, the first user too
        assert runs_of(MlflowClient(address))[run][-1]["read_by"] == "ada"


@pytest.mark.campaign
@NEEDS_POSTGRES
def test_the_projects_own_store_moves_to_the_server(
    site: Site, own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = own_store / "mlruns/mlflow.db"
    local = MlflowClient(f"sqlite:///{file}")
    before = runs_of(local)
    assert {name for name, *_ in before.values()} == {"check", "fetch"}
    run = next(iter(before))
    local.log_text(run, "an answer", "answers.txt")
    before = runs_of(local)
    numbers = local.create_experiment("numbers", artifact_location=str(own_store / "mlruns/numbers"))
    local.log_metric(local.create_run(numbers).info.run_id, "loss", 0.5)
    at = settings(
        MLFLOW_BACKEND_STORE_URI=f"{site.database}/moved",
        MLFLOW_ARTIFACTS_DESTINATION="s3://mlflow/moved/",
        MLFLOW_S3_ENDPOINT_URL=site.s3,
        HOST="127.0.0.1",
        PORT=str(free_port()),
    )
    (broken := own_store / "mlruns/artifacts/broken").symlink_to("nowhere")
    failed = script("mlflow_migrate.py", str(file), **at)
    broken.unlink()
    assert failed.returncode == 1 and "ERROR: nothing was moved: " in failed.stderr, failed.stderr
    done = script("mlflow_migrate.py", str(file), **at)
    assert done.returncode == 0, done.stdout + done.stderr
    with server(at) as address:
        client = client_of(address, monkeypatch)
        assert runs_of(client) == before
        assert client.get_experiment_by_name("epsilon-dpo").artifact_location == "mlflow-artifacts:/1"
        assert Path(client.download_artifacts(run, "answers.txt")).read_text() == "an answer"
        added = client.create_run("1").info.run_id
        client.log_metric(added, "after", 1.0)
        (moved,) = client.search_runs([numbers])
        assert moved.data.metrics == {"loss": 0.5}
        assert client.create_experiment("another") == str(int(numbers) + 1)
    assert f"moved/1/{run}/artifacts/answers.txt" in objects(site.s3)
    again = script("mlflow_migrate.py", str(file), **at)
    assert again.returncode == 1 and "holds runs already" in again.stderr
    assert runs_of(MlflowClient(f"sqlite:///{file}")) == before, "the file is only read"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"MLFLOW_FLASK_SERVER_SECRET_KEY": ""}, "not set: MLFLOW_FLASK_SERVER_SECRET_KEY"),
        ({"MLFLOW_BACKEND_STORE_URI": "postgresql://mlflow@postgres/mlflow"}, "write postgresql+psycopg2://"),
        ({"MLFLOW_ARTIFACTS_DESTINATION": "/a/folder"}, "is not of the form s3://BUCKET/FOLDER"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(changes: dict[str, str], said: str) -> None:
    done = script("mlflow_server.py", **settings(**changes))
    assert done.returncode == 1 and done.stderr.startswith("ERROR: ") and said in done.stderr


def test_a_store_that_is_not_amazons_gets_no_new_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceph, Wasabi and older MinIO refuse them; the bucket is there, so that the server would start nevertheless."""
    monkeypatch.syspath_prepend(str(ROOT / "docker"))
    from mlflow_server import plain_checksums

    amazon: dict[str, str] = {}
    plain_checksums(amazon)
    assert amazon == {}
    own = {"MLFLOW_S3_ENDPOINT_URL": "https://s3.example.org", "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_supported"}
    plain_checksums(own)
    assert own["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"
    assert own["AWS_RESPONSE_CHECKSUM_VALIDATION"] == "when_supported", "what a user has set stays"


def test_artifacts_are_missed_only_where_their_folder_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docker"))
    from mlflow_migrate import copy_files
    from mlflow_server import Refused

    (tmp_path / "mlruns/1").mkdir(parents=True)
    (tmp_path / "mlruns/1/answers.txt").write_text("an answer")
    copy_files({"1": f"{tmp_path}/mlruns/1", "2": f"file://{tmp_path}/mlruns/2"}, str(tmp_path / "moved"))
    assert (tmp_path / "moved/1/answers.txt").read_text() == "an answer" and not (tmp_path / "moved/2").exists()
    assert "Experiment 2 has no artifacts" in capsys.readouterr().out
    with pytest.raises(Refused, match="run this on the machine where they were made"):
        copy_files({"1": "/home/somebody/mlruns/1"}, str(tmp_path / "moved"))


@pytest.fixture
def bucket() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    store = ThreadedMotoServer(port=0)
    store.start()
    yield "http://{}:{}".format(*store.get_host_and_port())
    store.stop()


def test_a_server_that_cannot_come_up_says_why_and_leaves_no_password(bucket: str, tmp_path: Path) -> None:
    def said(name: str = "mlflow_server.py", *arguments: str, **changes: str) -> str:
        at = settings(HOST="127.0.0.1", PORT=str(free_port()), MLFLOW_S3_ENDPOINT_URL=bucket)
        done = script(name, *arguments, TMPDIR=str(tmp_path), **(at | changes))
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        assert done.returncode == 1 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
        assert not list(tmp_path.rglob("login.ini"))
        return errors[0]

    nobody = "postgresql+psycopg2://mlflow:a-password@127.0.0.1:9/mlflow"
    for name in ("mlflow_server.py", "mlflow_migrate.py"):
        arguments = [__file__] * (name == "mlflow_migrate.py")  # which is not read before the database answers
        sentence = said(name, *arguments, MLFLOW_BACKEND_STORE_URI=nobody)
        assert "the database of MLFLOW_BACKEND_STORE_URI cannot be used: " in sentence and "a-password" not in sentence
        assert "port 9 failed: Connection refused" in sentence
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen at HOST 127.0.0.1, PORT {port} ([Errno 98]" in said(PORT=port)
    assert "cannot listen at HOST 127.0.0.1, PORT http" in said(PORT="http")


def test_a_bucket_of_amazons_own_is_made_in_the_region_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Amazon refuses one that is not named where it is not us-east-1, and us-east-1 where it is named."""
    import boto3
    from moto import mock_aws

    monkeypatch.syspath_prepend(ROOT / "docker")
    from mlflow_server import make_bucket

    for region in ("eu-central-1", "us-east-1"):
        monkeypatch.setenv("AWS_DEFAULT_REGION", region)
        with mock_aws():
            make_bucket("s3://mlflow/artifacts", None)
            found = boto3.client("s3").get_bucket_location(Bucket="mlflow")["LocationConstraint"]
        assert found == (None if region == "us-east-1" else region)


@NEEDS_POSTGRES
def test_a_store_that_is_away_is_named(bucket: str, tmp_path: Path) -> None:
    with postgres("mlflow") as address:
        at = settings(MLFLOW_BACKEND_STORE_URI=f"{address}/mlflow", HOST="127.0.0.1", PORT=str(free_port()))
        done = script("mlflow_server.py", **at | {"MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:9"})
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert "the bucket 'mlflow' of MLFLOW_ARTIFACTS_DESTINATION at http://127.0.0.1:9 cannot be used" in done.stderr
        done = script("mlflow_server.py", **at | {"MLFLOW_BACKEND_STORE_URI": f"{address}/none"})
        assert 'database "none" does not exist' in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_file_with_the_password_goes_with_the_server(tmp_path: Path, number: signal.Signals) -> None:
    """Whoever ends it. The server is a stand-in that says where the file is."""
    sleeps = "import os, time; print(os.environ['MLFLOW_AUTH_CONFIG_PATH'], flush=True); time.sleep(60)"
    serves = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'docker')!r}); from mlflow_server import serve; "
        f"sys.exit(serve([sys.executable, '-c', {sleeps!r}], 'postgresql+psycopg2://me:p%401@host/rows'))"
    )
    env = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", serves], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    login = Path(process.stdout.readline().strip())
    assert "me:p%%401@host" in login.read_text() and login.parent.stat().st_mode & 0o077 == 0
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert not list(tmp_path.iterdir())


def test_the_pipeline_of_compose_reports_to_its_server_with_the_login_it_makes() -> None:
    pipeline, mlflow = SERVICES["pipeline"], SERVICES["mlflow"]
    assert pipeline["image"] == mlflow["image"] and pipeline["build"] == mlflow["build"]
    assert pipeline["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert pipeline["environment"]["MLFLOW_TRACKING_PASSWORD"] == "${MLFLOW_PASSWORD}"
    assert settings()["ALLOWED_HOSTS"].split(",")[0] == "mlflow:*"
    assert settings()["MLFLOW_BACKEND_STORE_URI"].startswith("postgresql+psycopg2://")
