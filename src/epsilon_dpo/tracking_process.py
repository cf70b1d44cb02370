"""The child process of a Tracker: it reads JSON lines from stdin until the pipe closes and writes one MLflow run.

The first failure prints one line and ends the tracking, never the stage: from then on the lines are only read, so that
the stage's pipe cannot fill up.
"""

import json
import logging
import os
import ssl
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

if TYPE_CHECKING:
    from epsilon_dpo.tracking_record import Record

HELLO_S = 3.0


def serve(lines: Iterator[str]) -> None:
    """Write what `lines` say (Tracker's methods); if they end without a `close`, the stage was killed."""
    record: Record | None = None
    name = "this stage"
    try:
        for line in lines:
            message = json.loads(line)
            kind = message.pop("kind")
            if kind == "open":
                name = message["name"]
                record = _open(message)
            elif record is not None:
                getattr(record, kind)(**message)
                if kind == "close":
                    return
        if record is not None:
            record.close("KILLED")
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        say(f"no MLflow record of {name} from here on ({type(error).__name__}: {reason}); the stage goes on.")
        for _ in lines:
            pass


def say(what: str) -> None:
    print(f"tracking: {what}", file=sys.stderr, flush=True)


def reach_server(uri: str) -> None:
    """Ask an HTTP server whether it is there, before MLflow is imported and waits longer; any answer will do.

    Raises:
        ConnectionError: it cannot be reached, or does not answer within HELLO_S.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"  # without a password
    try:
        urlopen(f"{server}{parts.path.rstrip('/')}/health", timeout=HELLO_S).close()
    except HTTPError:
        pass
    except TimeoutError:
        raise ConnectionError(f"{server} does not answer within {HELLO_S:.0f} s") from None
    except URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            return  # it is there; MLflow has settings of its own for certificates
        raise ConnectionError(f"{server}: {error.reason}") from None


def _open(opening: dict) -> "Record":
    reach_server(os.environ.get("MLFLOW_TRACKING_URI", ""))
    from epsilon_dpo.tracking_record import Record  # imports mlflow, which can fail and must then be said

    return Record(**opening)


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    logging.disable(logging.WARNING)  # MLflow and Alembic tell about every migration of a fresh store
    serve(sys.stdin)
