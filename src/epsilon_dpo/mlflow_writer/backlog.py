"""`python -m epsilon_dpo.mlflow_writer.backlog` writes all of mlruns/pending, for which a stage has too little time.

It takes as long as it takes, and ends with one line: how much was written, how much still waits and why.
"""

import os

from epsilon_dpo.mlflow_writer.delivery import Backlog, first_of, oldest_first
from epsilon_dpo.mlflow_writer.process import be_quiet
from epsilon_dpo.mlflow_writer.server import (
    LOGIN,
    Failure,
    failure,
    in_short,
    note_outage,
    note_success,
    reach_server,
    say,
)


def write_backlog(uri: str) -> None:
    """To the store at `uri`; empty: the project's own."""
    backlog = Backlog(uri)
    why = ""
    try:
        reach_server(uri)
        from epsilon_dpo.mlflow_writer.rows import Rows  # mlflow, whose absence is no fault of a record's

        backlog.deliver()
        Rows().close_dead()
        note_success(uri)
    except Exception as error:
        why = in_short(error)
        kind = failure(error, uri)
        if kind is Failure.OUTAGE:
            note_outage(uri)
        elif kind is Failure.LOGIN:
            why += f"; {LOGIN}"
    except KeyboardInterrupt:
        why = "interrupted"
    say(_result(backlog, why))


def _result(backlog: Backlog, why: str) -> str:
    """The line at the end. `why`: what ended it before all were tried."""
    waiting = len(oldest_first())
    reasons = [f"{count} for {store or 'mlruns/mlflow.db'}" for store, count in backlog.elsewhere.items()]
    if backlog.held:
        reasons.append(f"{backlog.held} held by another process")
    if backlog.stuck:
        reasons.append(f"{len(backlog.stuck)} that a store fails to write, unlike others: {first_of(backlog.stuck)}")
    line = f"mlruns/pending: {len(backlog.written)} written, {waiting} still waiting"
    return line + (f" ({'; '.join([*reasons, *filter(None, [why])])})." if waiting else ".")


if __name__ == "__main__":
    be_quiet()
    write_backlog(os.environ.get("MLFLOW_TRACKING_URI", ""))
