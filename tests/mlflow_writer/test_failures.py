"""What the error of a call to MLflow means for those that follow: what a store may take later must not be given up."""

import errno
import sqlite3

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

from epsilon_dpo.mlflow_writer.server import Failure, failure


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
