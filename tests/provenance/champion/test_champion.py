"""`epsilon-dpo champion` where something is away: the remote, the server, the right to write; and where it is asked."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

import pytest
from promotion_project import dvc

from epsilon_dpo.cli import main
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.provenance.champion import weights

Asked = Callable[..., str]
pytestmark = pytest.mark.slow
TWICE = "from epsilon_dpo.cli import main; main(['champion']); print('now'); main(['champion', '--out', 'champion'])"


class Answers(BaseHTTPRequestHandler):
    """As a server that is there and refuses."""

    status: ClassVar[int] = 403

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def http() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def promoted(project: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    main(["promote", "plain"])
    capsys.readouterr()
    return project


def remote(url: str) -> None:
    dvc("remote", "add", "-q", "-f", "-d", "store", url)


def test_why_a_remote_does_not_give_the_weights_is_said(
    promoted: Path, refused: Asked, http: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "new" / "champion"

    def said() -> str:
        sentence = refused("champion", "--out", str(target))
        assert not target.parent.exists() and "\n" not in sentence
        return sentence

    remote(str(tmp_path / "remote"))
    dvc("push", "-q")
    shutil.rmtree("out")
    shutil.rmtree(".dvc/cache")
    files = [each for each in (tmp_path / "remote").rglob("*") if each.is_file()]
    (file,) = (each for each in files if each.read_bytes().startswith(b"{'method': 'dpo', 'strength': 0.6}"))
    hidden = file.rename(tmp_path / "hidden")
    assert f"{file.parent.name}{file.name} is not in DVC's remote 'store' ({tmp_path}/remote)" in said()
    hidden.rename(file)
    shutil.rmtree(".dvc/cache")
    (tmp_path / "remote").rename(tmp_path / "elsewhere")
    assert f"cannot be read: {tmp_path}/remote is no folder on this machine" in said()
    (tmp_path / "remote").mkdir()
    assert ".dir is not in DVC's remote 'store'" in said()
    (tmp_path / "file").touch()
    remote(f"{tmp_path}/file")
    assert "is no folder on this machine" in said()
    remote("http://127.0.0.1:9/x")
    assert "cannot be read: Cannot connect to host 127.0.0.1:9" in said()
    for status, sentence in ((403, "cannot be read: 403"), (404, ".dir is not in DVC's remote")):
        monkeypatch.setattr(Answers, "status", status)
        remote(f"{http}/x")
        assert sentence in said()
    remote("hdfs://nowhere/x")
    assert "not fetched: " in (sentence := said()) and "dvc-hdfs" in sentence
    dvc("remote", "remove", "-q", "store")
    assert "no remote specified" in said()


def test_a_bucket_that_is_away_is_told_from_a_file_that_is_not_in_it(
    promoted: Path, refused: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    shutil.rmtree("out")
    shutil.rmtree(".dvc/cache")
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    try:
        remote("s3://bucket/x")
        dvc("remote", "modify", "-q", "store", "endpointurl", f"http://{host}:{port}")
        assert "cannot be read: Unable to locate credentials" in refused("champion", "--out", "champion")
        for name, value in (("access_key_id", "a"), ("secret_access_key", "secret"), ("region", "us-east-1")):
            dvc("remote", "modify", "-q", "store", name, value)
        assert "cannot be read: The specified bucket does not exist" in refused("champion", "--out", "champion")
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys).create_bucket(Bucket="bucket")
        assert ".dir is not in DVC's remote 'store'" in refused("champion", "--out", "champion")
    finally:
        server.stop()


@pytest.mark.parametrize("theirs", ["a file", "an empty folder", "a folder", "a link"])
def test_what_came_to_the_folder_meanwhile_is_left_alone(
    promoted: Path, refused: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, theirs: str
) -> None:
    target = tmp_path / "champion"

    def somebody_is_faster(path: Path, **how: Any) -> str:
        if path.is_absolute() and theirs == "a file":  # and not the folder in out/
            target.write_text("theirs")
        elif path.is_absolute() and theirs == "a link":
            target.symlink_to("nowhere")
        elif path.is_absolute():
            target.mkdir()
            if theirs == "a folder":
                (target / "notes").write_text("theirs")
        return digest(path, **how)

    monkeypatch.setattr(weights, "digest", somebody_is_faster)
    assert refused("champion", "--out", str(target)) == f"ERROR: {target} exists; name a folder to make."
    assert target.is_symlink() if theirs == "a link" else target.exists()
    assert theirs != "a folder" or (target / "notes").read_text() == "theirs"
    assert theirs != "an empty folder" or not list(target.iterdir())
    assert not [left for left in tmp_path.iterdir() if left.name.startswith(".")]


def test_a_folder_that_cannot_be_made_is_a_sentence(promoted: Path, refused: Asked, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = refused("champion", "--out", str(tmp_path / "file" / "champion"))
    assert f"{tmp_path}/file/champion is not made: " in said and "Not a directory" in said


def test_a_project_may_be_asked_from_a_folder_inside(
    promoted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (promoted / "notes" / "deep").mkdir(parents=True)
    monkeypatch.chdir(promoted / "notes" / "deep")
    main(["champion"])
    assert "out/align/plain/model has this sha256" in capsys.readouterr().out
    main(["champion", "--out", "../mine"])
    assert digest(promoted / "notes/mine") == digest(promoted / "out/align/plain/model")
    assert [each.name for each in (promoted / "notes").iterdir()] in (["deep", "mine"], ["mine", "deep"])


def test_a_project_that_may_not_be_written_is_read(promoted: Path) -> None:
    if os.getuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root may write everywhere, and setpriv (util-linux) is not here to take that right away")
    as_others = ["setpriv", "--bounding-set=-dac_override"] if os.getuid() == 0 else []
    places = {path: path.lstat() for path in (promoted, *promoted.rglob("*")) if not path.is_symlink()}
    for path, was in places.items():
        os.chmod(path, was.st_mode & ~0o222)
    try:
        command = [*as_others, sys.executable, "-c", TWICE]
        asked = subprocess.run(command, text=True, capture_output=True, check=False)
        said, now, _ = asked.stdout.partition("now\n")
        assert now and "out/align/plain/model has this sha256" in said, asked.stderr
        assert asked.stderr.startswith("ERROR: ") and "champion is not made: [Errno 13]" in asked.stderr
        assert set(places) == {path for path in (promoted, *promoted.rglob("*")) if not path.is_symlink()}
    finally:
        for path, was in places.items():
            os.chmod(path, was.st_mode)


def test_asking_makes_no_store(promoted: Path, refused: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty.db").touch()
    text = "no database, but long enough to be taken for one by its size " * 100
    Path("text.db").write_text(text)
    before = sorted(Path.cwd().rglob("*"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///empty.db")
    assert "empty.db is no store of MLflow's" in refused("champion")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///none/mlflow.db")
    assert "none/mlflow.db is no store of MLflow's" in refused("champion")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///text.db")
    assert "does not answer as needed: file is not a database" in refused("champion")
    assert sorted(Path.cwd().rglob("*")) == before
    assert Path("empty.db").stat().st_size == 0 and Path("text.db").read_text() == text


def greeting(server: socket.socket) -> None:
    """As an SSH server's."""
    while True:
        try:
            with server.accept()[0] as client:
                client.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
        except OSError:
            return


def times_out(*_: Any, **__: Any) -> None:
    raise TimeoutError


@pytest.mark.parametrize("command", [("champion",), ("promote", "better")], ids=lambda command: command[0])
def test_a_server_that_is_none_is_a_sentence_with_its_address(
    promoted: Path, refused: Asked, monkeypatch: pytest.MonkeyPatch, http: str, command: tuple[str, ...]
) -> None:
    def said(uri: str) -> str:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        began = monotonic()
        sentence = refused(*command)
        assert monotonic() - began < 30
        return sentence

    assert "http://127.0.0.1:9 does not answer as needed: http://127.0.0.1:9: " in said("http://127.0.0.1:9")
    assert "http://[::1 is no address of a server" in said("http://[::1")
    assert "127.0.0.1:9 is no address of a server" in said("postgresql+psycopg2://me:secret@127.0.0.1:9/rows")
    monkeypatch.setattr(Answers, "status", 503)
    assert f"MLflow's registry at {http} does not answer as needed: " in said(http)
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        threading.Thread(target=greeting, args=(other,), daemon=True).start()
        address = f"http://127.0.0.1:{other.getsockname()[1]}"
        assert f"{address} is no address of a server, or none of MLflow's (BadStatusLine" in said(address)
    monkeypatch.setattr(socket, "create_connection", times_out)
    assert "10.0.0.1:5432 does not answer within 3 s" in said("postgresql+psycopg2://me@10.0.0.1/rows")
