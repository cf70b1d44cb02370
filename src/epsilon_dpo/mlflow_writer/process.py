"""The child process of a Tracker: it reads JSON lines from stdin until the pipe closes and writes one MLflow run.

Whatever fails prints one line and never ends the stage. What a server did not take is tried again while the stage
runs, and is kept in mlruns/pending for a later stage where it ends before (outbox.py).
"""

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType

from epsilon_dpo.mlflow_writer.outbox import Outbox
from epsilon_dpo.mlflow_writer.server import note_outage, server_address
from epsilon_dpo.pipeline.observability.child import NO_TELEMETRY
from epsilon_dpo.pipeline.observability.tracker import KEPT


def serve(lines: Iterator[str]) -> None:
    """Write what `lines` say (Tracker's methods); if they end without a `close`, the stage was killed."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    outbox = Outbox(uri)
    outbox.listen(lines)
    try:
        if not server_address(uri):  # a server is asked whether it is there first
            import_mlflow()
        outbox.run()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of a stage that gives up now: half of what is kept is nothing
    except SystemExit:  # of `_give_up`
        if outbox.is_unanswered():
            note_outage(uri)
        sys.exit(KEPT if outbox.keep() else 1)
    outbox.keep()


def import_mlflow() -> None:
    """While the stage imports its own."""
    gc.disable()  # what is imported stays: half of the time would go into looking for garbage in it
    with suppress(Exception):  # the outbox imports it again, and says what is wrong
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  # which MLflow imports when a run is opened

        import epsilon_dpo.mlflow_writer.record  # noqa: F401
    gc.freeze()
    gc.enable()


def _give_up(_signal: int, _frame: FrameType | None) -> None:
    """The stage is done and waits no longer; leaving by an exception releases the lock and the files of a store."""
    sys.exit(1)


def be_quiet() -> None:
    """Before MLflow is imported: it reports to nobody, and what it says of each migration is not shown."""
    for variable, value in NO_TELEMETRY.items():
        os.environ.setdefault(variable, value)
    logging.disable(logging.ERROR)  # also tracebacks of what is said in a line


def run() -> int:
    """As the process of one stage; returns its exit code."""
    signal.signal(signal.SIGTERM, _give_up)
    be_quiet()
    code = 0
    try:
        serve(sys.stdin)
    except SystemExit as end:
        code = int(end.code or 0)
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    os._exit(run())  # all is written, and the stage waits: to take MLflow apart again took 0.1 s
