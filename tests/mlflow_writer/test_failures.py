"""What the error of a call to MLflow means for those that follow: what a store may take later must not be given up."""

import errno
import os
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from filelock import Timeout
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)

from epsilon_dpo.mlflow_writer.server import (
    OUTAGE_S,
    Failure,
    failure,
    is_out,
    note_outage,
    outage_file,
    reach_server,
)


def answered(status: int) -> requests.HTTPError:
    """As the upload of a file raises it."""
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(str(status), response=response)


@pytest.mark.parametrize("uri", ["", "sqlite:///own/rows.db"], ids=["own", "named"])
@pytest.mark.parametrize(
    ("error", "means"),
    [
        (Timeout("mlruns/.lock"), Failure.OUTAGE),  # another process makes the store
        (sqlite3.OperationalError("database is locked"), Failure.OUTAGE),
        (MlflowException("(sqlite3.OperationalError) database is locked"), Failure.OUTAGE),
        (sqlite3.DatabaseError("file is not a database"), Failure.STORE),
        (OSError(errno.ENOSPC, "No space left on device"), Failure.STORE),
        (MlflowException("a name of 300 characters", INVALID_PARAMETER_VALUE), Failure.CALL),
    ],
)
def test_a_local_store_that_is_busy_is_not_broken(error: Exception, means: Failure, uri: str) -> None:
    assert failure(error, uri) is means


@pytest.mark.parametrize(
    ("error", "means"),
    [
        (ConnectionRefusedError(), Failure.OUTAGE),
        (requests.ConnectionError("no route"), Failure.OUTAGE),
        (MlflowException("API request failed with exception"), Failure.OUTAGE),  # whatever could not be sent
        (MlflowException("restarts", TEMPORARILY_UNAVAILABLE), Failure.OUTAGE),
        (answered(502), Failure.OUTAGE),
        (MlflowException("too many requests", REQUEST_LIMIT_EXCEEDED), Failure.OUTAGE),
        (answered(429), Failure.OUTAGE),
        (answered(401), Failure.LOGIN),
        (MlflowException("not yours", PERMISSION_DENIED), Failure.LOGIN),
        (MlflowException("no such run", RESOURCE_DOES_NOT_EXIST), Failure.CALL),
        (answered(413), Failure.CALL),
    ],
)
def test_a_server_that_is_away_or_has_too_much_to_do_may_take_the_call_later(error: Exception, means: Failure) -> None:
    assert failure(error, "https://mlflow.example.org") is means


def test_a_database_is_asked_at_the_port_of_its_address_or_at_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def connect(address: Any, _timeout: float) -> socket.socket:
        asked.append(address)
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)
    for uri in (
        "postgresql+psycopg2://ada:secret@db/mlflow",
        "postgresql://db:6543/mlflow",
        "mysql+pymysql://db/mlflow",
    ):
        reach_server(uri)
    assert asked == [("db", 5432), ("db", 6543), ("db", 3306)]


def test_an_outage_is_one_servers_and_of_the_last_two_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note from the future is of a clock that went back: the server would be out until then."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    uri = "http://127.0.0.1:9"
    assert note_outage(uri) and not is_out("http://127.0.0.1:10")
    for age, out in ((1.0, True), (OUTAGE_S - 5.0, True), (OUTAGE_S + 1.0, False), (-3600.0, False)):
        noted = time.time() - age
        os.utime(outage_file(), (noted, noted))
        assert is_out(uri) is out
