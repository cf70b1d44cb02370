"""Seconds and bytes: what earlier runs took, and how a person reads them."""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

STORE = Path("mlruns") / "mlflow.db"
SQLITE = "sqlite:///"
# Of each stage the last run that ended well; a row that the report rebuilt has no duration.
LAST = """
    SELECT runs.name, (runs.end_time - runs.start_time) / 1000.0 FROM runs
    JOIN experiments USING (experiment_id)
    WHERE experiments.name = 'epsilon-dpo' AND runs.status = 'FINISHED' AND runs.lifecycle_stage = 'active'
    AND NOT EXISTS (SELECT 1 FROM tags WHERE tags.run_uuid = runs.run_uuid AND tags.key = 'rebuilt')
    ORDER BY runs.start_time
"""


def seconds_of_stages(root: Path) -> dict[str, float]:
    """Wall seconds of the last complete run of each stage, by name, from the project's own store of MLflow.

    Read from its file, because MLflow takes seconds to import; nothing where a server or nobody keeps the records.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{root / STORE}"
    file = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or not file.is_file():
        return {}
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as store:
        return dict(store.execute(LAST).fetchall())
    return {}


def time_text(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def size_text(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:  # what is more has four digits when it is rounded
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
