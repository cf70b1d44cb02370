"""Whether the server of MLFLOW_TRACKING_URI is there, asked cheaply, and what an error of MLflow's says about it."""

import os
import socket
import ssl
import sys
import time
from contextlib import suppress
from enum import Enum
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from epsilon_dpo.pipeline.observability.child import NETWORK_LIMITS, NO_TELEMETRY
from epsilon_dpo.pipeline.observability.errors import redacted
from epsilon_dpo.pipeline.observability.tracker import mlruns

UI = "http://127.0.0.1:5000"  # of `make ui`
CONNECT_TIMEOUT_S = 3.0
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}  # of the databases that MLflow writes to by itself
OUTAGE_S = 120.0  # a pipeline with a dead server says so this often
LOGIN_CODES = (401, 403)
BUSY_CODE = 429
INVALID = "INVALID_PARAMETER_VALUE"  # MLflow's: of a local store it is the one error that says the call is at fault
ABSENT = "RESOURCE_DOES_NOT_EXIST"  # MLflow's
LOGIN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"


class Failure(Enum):
    """What a failed call means for those that follow."""

    OUTAGE = "the store may take the same call later"
    LOGIN = "the server takes no call of this process"
    CALL = "the server will never take this call"
    STORE = "a local store that cannot be used"


def failure(error: Exception, uri: str) -> Failure:
    """Of a call to the store at `uri`; empty: the project's own."""
    if not uri or uri.startswith("sqlite"):
        if getattr(error, "error_code", None) == INVALID:
            return Failure.CALL
        busy = isinstance(error, TimeoutError) or "database is locked" in str(error)  # another process makes or uses it
        return Failure.OUTAGE if busy else Failure.STORE
    if isinstance(error, ConnectionError | TimeoutError):
        return Failure.OUTAGE
    response = getattr(error, "response", None)  # of requests, which uploads artifacts
    code = getattr(response, "status_code", None)
    if code is None and hasattr(error, "get_http_status_code"):
        code = error.get_http_status_code()  # of MLflow, which has 500 for whatever it could not send
    if code is None:
        return Failure.OUTAGE if type(error).__module__.startswith(("requests", "urllib3")) else Failure.CALL
    if code in LOGIN_CODES:
        return Failure.LOGIN
    return Failure.OUTAGE if code >= 500 or code == BUSY_CODE else Failure.CALL


def say(what: str) -> None:
    print(f"tracking: {what}", file=sys.stderr, flush=True)


def in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {redacted(' '.join(str(error).split()))[:300]}"


def wait_briefly() -> None:
    """Give MLflow's client the short limits of stages, where the user has set none.

    Its own let one call to a server that went away block for four minutes.
    """
    for variable, value in (NO_TELEMETRY | NETWORK_LIMITS).items():
        os.environ.setdefault(variable, value)


def reach_server(uri: str) -> None:
    """Ask a server whether it is there, before MLflow is imported and waits longer; any answer will do.

    Raises:
        ConnectionError: it cannot be reached, does not answer within CONNECT_TIMEOUT_S, or speaks another language.
    """
    server = server_address(uri)
    try:
        if server:
            urlopen(f"{server}/health", timeout=CONNECT_TIMEOUT_S).close()
        elif database := _database_address(uri):
            server = "{}:{}".format(*database)
            socket.create_connection(database, CONNECT_TIMEOUT_S).close()
    except HTTPError:
        pass
    except TimeoutError:
        raise ConnectionError(f"{server} does not answer within {CONNECT_TIMEOUT_S:.0f} s") from None
    except URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            return  # it is there; MLflow has settings of its own for certificates
        raise ConnectionError(f"{server}: {error.reason}") from None
    except (OSError, HTTPException, ValueError) as error:
        wrong = f"{redacted(server or uri)} is no address of a server, or none of MLflow's ({in_short(error)})"
        raise ConnectionError(wrong) from None


def _database_address(uri: str) -> tuple[str, int] | None:
    """Host and port of a database that MLflow connects to without a server; None: `uri` is of another kind.

    Raises:
        ValueError: `uri` is no address.
    """
    parts = urlsplit(uri)
    port = PORTS.get(parts.scheme.partition("+")[0])
    return (parts.hostname, parts.port or port) if port and parts.hostname else None


def outage_file() -> Path:
    """Names the server that failed last; its time is the file's. Neither git nor DVC looks at mlruns/."""
    return mlruns() / ".unreachable"


def is_out(uri: str) -> bool:
    """Whether this server failed less than OUTAGE_S ago."""
    try:
        age = time.time() - outage_file().stat().st_mtime
        return outage_file().read_text("utf-8") == server_address(uri) and 0 <= age < OUTAGE_S
    except OSError:
        return False


def note_outage(uri: str) -> bool:
    """For `is_out`; False: not noted, as for a local store, which is always worth asking."""
    if not server_address(uri):
        return False
    try:
        outage_file().parent.mkdir(exist_ok=True)
        outage_file().write_text(server_address(uri), "utf-8")
    except OSError:
        return False
    return True


def note_success(uri: str) -> None:
    if server_address(uri):
        with suppress(OSError):
            outage_file().unlink(missing_ok=True)


def server_address(uri: str) -> str:
    """An HTTP server's address without a password; empty for another store."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # of brackets that do not close; asked whether it is there, the server is not
        return redacted(uri) if uri.startswith(("http://", "https://")) else ""
    if parts.scheme not in ("http", "https"):
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
