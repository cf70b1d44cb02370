"""Where MLflow writes: mlruns/mlflow.db with its artifacts beside it, or the server named by MLFLOW_TRACKING_URI."""

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException

from epsilon_dpo.mlflow_writer.server import INVALID, say
from epsilon_dpo.mlflow_writer.view import SHARED_VIEW, experiment_tags

EXPERIMENT = "epsilon-dpo"
SQLITE = "sqlite:///"
MEMORY = Path("/dev/shm")  # of Linux
LOCK_S, BUSY_S = 60.0, 5.0


@dataclass(frozen=True)
class Store:
    """An open store.

    Attributes:
        experiment: id of the experiment `epsilon-dpo`.
        takes_artifacts: False if the store's files were made for another folder (a copied project): its artifacts
            would be written there.
    """

    client: MlflowClient
    experiment: str
    takes_artifacts: bool
    is_local: bool = False


def root() -> Path:
    """The project's folder; `dvc exp run --temp` runs in a copy and names the real one in DVC_ROOT."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def open_store() -> Store:
    """The store, created if it does not exist.

    Raises:
        OSError, sqlite3.Error, MlflowException: it cannot be written or reached.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri and not uri.startswith(SQLITE):
        client = MlflowClient(uri)
        return Store(client, _experiment(client, None).experiment_id, takes_artifacts=True)
    database = database_of(uri, root())
    database.parent.mkdir(parents=True, exist_ok=True)
    artifacts = _location(database.parent / "artifacts")
    with FileLock(database.parent / ".lock", timeout=LOCK_S):
        if not database.exists():
            _create(database, artifacts)
        _probe(database)
        _bring_up_to_date(database)
        client = MlflowClient(address(database))
        experiment = _experiment(client, artifacts)
    location = experiment.artifact_location
    if location != artifacts:
        say(
            f"{database} was made for artifacts in {location}, so none are kept; the stage goes on. To keep them, "
            f"move the project back, or {database.parent} away for a new store."
        )
    return Store(client, experiment.experiment_id, takes_artifacts=location == artifacts, is_local=True)


def database_of(uri: str, project: Path) -> Path:
    """The file of a local store; without an address, or of a server, mlruns/mlflow.db. A relative address is one of
    `project`: an experiment's copy of it is deleted with all that is in it."""
    named = unquote(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else "mlruns/mlflow.db"
    return (project / named).resolve()


def address(database: Path) -> str:
    """Relative to the working folder where an address cannot hold the path: SQLAlchemy reads %20 as a space and ends a
    path at a question mark, MLflow makes the folder of a database whose name is quoted for it, with the quotes in its
    name. Else absolute: MLflow keeps an open store by its address, and would mistake another folder's for it."""
    return f"{SQLITE}{os.path.relpath(database) if set('%#?') & set(str(database)) else database}"


def _location(folder: Path) -> str:
    """What MLflow reads as `folder`, which it takes for an address as well; as it is where that makes no difference."""
    return folder.as_uri() if set("%#?") & set(str(folder)) else str(folder)


def _create(database: Path, artifacts: str) -> None:
    """A complete store under another name, then renamed.

    A store whose creation is interrupted, or shared by two processes, is left half migrated, and nobody can open it
    again; its stage may end and stop waiting for this process. In memory it takes 2 s, on a disk 8 s (measured), which
    go into waiting for each of the migrations to be on the disk.
    """
    partial = database.with_suffix(".partial")
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        fresh = Path(folder) / database.name
        _experiment(MlflowClient(address(fresh)), artifacts)
        shutil.copyfile(fresh, partial)
    partial.replace(database)


def schema_of(database: Path) -> str | None:
    """The revision of a store's tables, as alembic notes it; None: MLflow has made none there."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            return None
        found: tuple[str] | None = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return found[0] if found else None


def own_schema() -> str:
    """The revision that this MLflow reads and writes."""
    from mlflow.store.db.utils import _get_latest_schema_revision  # nothing public says it

    return str(_get_latest_schema_revision())


def _bring_up_to_date(database: Path) -> None:
    """The store of an older MLflow, moved to this one's tables as a copy, which then takes its place.

    MLflow does so in the store itself, and a kill within these 2 s leaves what nobody can open again (6 of 10 kills,
    measured). The store as it was stays beside it.

    Raises:
        MlflowException: a newer MLflow has made it.
    """
    found = schema_of(database)
    if found is None or found == own_schema():
        return
    from alembic.util.exc import CommandError
    from mlflow.store.db.utils import _upgrade_db  # of `mlflow db upgrade`
    from sqlalchemy import create_engine

    partial, before = (database.with_suffix(f".{end}") for end in ("partial", f"before-{found}"))
    roomy = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2 * database.stat().st_size
    with tempfile.TemporaryDirectory(dir=MEMORY if roomy else database.parent) as folder:
        copy = Path(folder) / database.name
        shutil.copyfile(database, copy)
        try:
            _upgrade_db(create_engine(address(copy)))
        except CommandError:
            raise MlflowException(
                f"{database} is of a newer MLflow; install that one, or move the file away for a new store"
            ) from None
        shutil.copyfile(copy, partial)
    shutil.copyfile(database, before)
    partial.replace(database)


def _probe(database: Path) -> None:
    """Fail at once where MLflow would try again for 100 s: a file that is no database, or that cannot be written."""
    with closing(sqlite3.connect(database, timeout=BUSY_S)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


def refuse_deleted(experiment: Experiment) -> None:
    """Raises MlflowException, with the way to restore it, if `experiment` is deleted."""
    if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
        raise MlflowException(
            f"the experiment {EXPERIMENT} is deleted; `mlflow experiments restore -x {experiment.experiment_id}` "
            "restores it"
        )


@cache
def _say_that_views_are_refused() -> None:
    """Said once per process."""
    say("this server is older and takes no saved views; all else is recorded.")


def set_view(client: MlflowClient, experiment: str, key: str, view: str) -> None:
    """A saved view, as a tag of the experiment. Older servers take 5,000 characters, and a view has more: they show the
    rows without it."""
    try:
        client.set_experiment_tag(experiment, key, view)
    except MlflowException as error:
        if error.error_code != INVALID:
            raise
        _say_that_views_are_refused()


def _experiment(client: MlflowClient, artifacts: str | None) -> Experiment:
    """The experiment, which another stage may create at the same moment on a server."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if not found:
        with suppress(MlflowException):
            client.create_experiment(EXPERIMENT, artifact_location=artifacts)
        found = client.get_experiment_by_name(EXPERIMENT)
    if not found:
        raise MlflowException(f"the experiment {EXPERIMENT} could not be created")
    refuse_deleted(found)  # which MLflow reports like a call that is never taken
    for key, value in experiment_tags().items():
        ours = key.startswith(SHARED_VIEW)  # the note may be somebody's by now, the view is what this version shows
        if key not in found.tags or (ours and found.tags[key] != value):
            if ours:
                set_view(client, found.experiment_id, key, value)
            else:
                client.set_experiment_tag(found.experiment_id, key, value)
    return found
