"""The child process of a Tracker: it reads JSON lines from stdin until the pipe closes and writes one MLflow run.

The first failure prints one line and ends the tracking, never the stage: from then on the lines are only read, so that
the stage's pipe cannot fill up. A server that failed is skipped silently by the next stages for OUTAGE_S seconds.
"""

import gc
import json
import logging
import os
import signal
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from epsilon_dpo.pipeline.observability.errors import redacted

if TYPE_CHECKING:
    from epsilon_dpo.mlflow_writer.record import Rows

CONNECT_TIMEOUT_S = 3.0
OUTAGE_S = 120.0  # a pipeline with a dead server says so this often, and a repaired one is found again this soon


def serve(lines: Iterator[str]) -> None:
    """Write what `lines` say (Tracker's methods); if they end without a `close`, the stage was killed."""
    record: Rows | None = None
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    name = "this stage"
    try:
        for line in lines:
            message = json.loads(line)
            kind = message.pop("kind")
            if kind == "open":
                name = message["name"]
                if is_out(uri):
                    break
                reach_server(uri)
                record = _open(message)
                note_success(uri)
            elif record is not None:
                getattr(record, kind)(**message)
                if kind == "close":
                    return
        if record is not None:
            record.close("KILLED")
    except Exception as error:
        reason = redacted(" ".join(str(error).split()))[:300]
        noted = f", and those of the next {OUTAGE_S / 60:.0f} min without trying" if note_outage(uri) else ""
        say(f"no MLflow record of {name} from here on ({type(error).__name__}: {reason}); the stage goes on{noted}.")
    for _ in lines:
        pass


def say(what: str) -> None:
    print(f"tracking: {what}", file=sys.stderr, flush=True)


def reach_server(uri: str) -> None:
    """Ask an HTTP server whether it is there, before MLflow is imported and waits longer; any answer will do.

    Raises:
        ConnectionError: it cannot be reached, or does not answer within CONNECT_TIMEOUT_S.
    """
    server = _server(uri)
    if not server:
        return
    try:
        urlopen(f"{server}/health", timeout=CONNECT_TIMEOUT_S).close()
    except HTTPError:
        pass
    except TimeoutError:
        raise ConnectionError(f"{server} does not answer within {CONNECT_TIMEOUT_S:.0f} s") from None
    except URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            return  # it is there; MLflow has settings of its own for certificates
        raise ConnectionError(f"{server}: {error.reason}") from None


def outage_file() -> Path:
    """Names the server that failed last; its time is the file's. Neither git nor DVC looks at mlruns/."""
    return Path(os.environ.get("DVC_ROOT", ".")) / "mlruns" / ".unreachable"


def is_out(uri: str) -> bool:
    """Whether this server failed less than OUTAGE_S ago."""
    try:
        age = time.time() - outage_file().stat().st_mtime
        return outage_file().read_text("utf-8") == _server(uri) and 0 <= age < OUTAGE_S
    except OSError:
        return False


def note_outage(uri: str) -> bool:
    """For `is_out`; False for a local store, which is free to ask, and slow only when it is made."""
    if not _server(uri):
        return False
    try:
        outage_file().parent.mkdir(exist_ok=True)
        outage_file().write_text(_server(uri), "utf-8")
    except OSError:
        return False
    return True


def note_success(uri: str) -> None:
    if _server(uri):
        with suppress(OSError):
            outage_file().unlink(missing_ok=True)


def _server(uri: str) -> str:
    """An HTTP server's address without a password; empty for another store."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def _open(opening: dict) -> "Rows":
    from epsilon_dpo.mlflow_writer.record import Record, Rows  # imports mlflow, which can fail and must then be said

    return Record(**opening) if opening["fingerprint"] is not None else Rows()


def _give_up(_signal: int, _frame: FrameType | None) -> None:
    """The stage is done and waits no longer; leaving by an exception releases the lock and the files of a store."""
    note_outage(os.environ.get("MLFLOW_TRACKING_URI", ""))
    sys.exit(1)


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    logging.disable(logging.ERROR)  # of each migration of a fresh store; tracebacks of what `serve` says in a line
    signal.signal(signal.SIGTERM, _give_up)
    if not _server(os.environ.get("MLFLOW_TRACKING_URI", "")):  # a server is asked whether it is there first
        gc.disable()  # what is imported stays: half of the time would go into looking for garbage in it
        with suppress(Exception):  # _open imports it again, and says what is wrong
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  # which MLflow imports when a run is opened

            import epsilon_dpo.mlflow_writer.record  # noqa: F401
        gc.freeze()
        gc.enable()
    serve(sys.stdin)
