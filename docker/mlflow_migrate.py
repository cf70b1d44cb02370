"""Move the rows and artifacts of a project's mlruns/mlflow.db to the server that mlflow_server.py would start.

`python docker/mlflow_migrate.py mlruns/mlflow.db`, with the environment of mlflow_server.py and that server stopped
(its database has to be there and empty but for users). Rows keep their ids, so links hold; the file is only read. The
rows come over in one transaction, which waits for the artifacts: a failure leaves the server's database as it was.
"""

import os
import sys
from pathlib import Path

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow_server import Refused, make_bucket, plain_checksums, reach_database, refusal, upgrade
from sqlalchemy import (
    Connection,
    Engine,
    MetaData,
    Table,
    create_engine,
    func,
    insert,
    or_,
    select,
    text,
    type_coerce,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

VERSION = "alembic_version"
# What says where files are, by table.
PLACES = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
ROWS = 5000  # at a time
FAILURES = (
    OSError,
    SQLAlchemyError,
    BotoCoreError,
    ClientError,
    Boto3Error,
    MlflowException,
)


def rows_of(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()


def tables_of(engine: Engine) -> MetaData:
    found = MetaData()
    found.reflect(engine)
    return found


def copy_table(source: Table, target: Table, read: Connection, write: Connection) -> int:
    """All rows, as the target's types (a flag is a number in SQLite); how many."""
    chosen = select(*(type_coerce(source.c[column.name], column.type) for column in target.columns))
    rows = read.execution_options(yield_per=ROWS).execute(chosen)
    count = 0
    for part in rows.partitions(ROWS):
        write.execute(insert(target), [dict(zip(target.columns.keys(), row, strict=True)) for row in part])
        count += len(part)
    return count


def count_on(write: Connection, table: Table) -> None:
    """The next row's number follows the last one's, where Postgres counts them."""
    for column in table.columns:
        sequence = write.execute(
            text("select pg_get_serial_sequence(:t, :c)"), {"t": table.name, "c": column.name}
        ).scalar()
        if sequence:
            last = write.execute(select(func.max(column))).scalar()
            if last is not None:
                write.execute(text("select setval(:s, :last)"), {"s": sequence, "last": last})


def moved_places(write: Connection, target: MetaData) -> dict[str, str]:
    """Where the artifacts of each experiment with runs were, by its id; the rows now say that the server has them."""
    experiments, runs = target.tables["experiments"], target.tables["runs"]
    found = write.execute(select(experiments.c.experiment_id, experiments.c.artifact_location)).all()
    used = set(write.execute(select(runs.c.experiment_id)).scalars())
    for experiment, folder in found:
        for name, column in PLACES.items():
            table = target.tables[name]
            place = table.c[column]
            moved = func.concat(f"mlflow-artifacts:/{experiment}", func.substr(place, len(folder) + 1))
            below = or_(place == folder, place.startswith(f"{folder}/", autoescape=True))
            of_it = (table.c.experiment_id == experiment,) if "experiment_id" in table.c else ()
            write.execute(update(table).where(*of_it, below).values({column: moved}))
    return {str(experiment): folder for experiment, folder in found if experiment in used}


def copy_files(folders: dict[str, str], destination: str) -> None:
    """The artifacts of each experiment, to where the server looks for them.

    MLflow makes a folder with its first artifact: one whose own folder is there has none yet, and metrics only.

    Raises:
        Refused: a folder is said to be where nothing of it is.
    """
    for experiment, folder in folders.items():
        here = Path(local_file_uri_to_path(folder))
        if not os.path.lexists(here) and here.parent.is_dir():
            print(f"Experiment {experiment} has no artifacts: {here} was never made.")
            continue
        if not here.is_dir():
            raise Refused(
                f"the artifacts of experiment {experiment} are said to be in {here}, which is not there: run this on "
                "the machine where they were made; a container needs that folder under the same path."
            )
        get_artifact_repository(f"{destination.rstrip('/')}/{experiment}").log_artifacts(str(here))


def move(file: Path, database: str, destination: str) -> None:
    """Everything but users.

    Raises:
        Refused: the two are not of one version of MLflow, or the target holds runs.
    """
    old, new = create_engine(f"sqlite:///{file}"), create_engine(database)
    source, target = tables_of(old), tables_of(new)
    if VERSION not in source.tables:
        raise Refused(f"{file} is not a store of MLflow.")
    with old.connect() as read, new.begin() as write:
        read.exec_driver_sql("BEGIN")  # all tables as of one moment: somebody may write to the file meanwhile
        versions = [c.execute(select(t.tables[VERSION])).scalar_one() for c, t in ((read, source), (write, target))]
        if versions[0] != versions[1]:
            raise Refused(f"{file} is of another version of MLflow; first run: mlflow db upgrade sqlite:///{file}")
        held = [name for name in ("runs", "registered_models") if rows_of(write, target.tables[name])]
        names = write.execute(select(target.tables["experiments"].c.name)).scalars()
        held += ["experiments"] * bool(set(names) - {"Default"})  # which MLflow makes in a new database
        if held:
            raise Refused(f"the server's database holds {held[0].replace('_', ' ')} already; a new database is needed.")
        shared = [table for table in target.sorted_tables if table.name in source.tables and table.name != VERSION]
        lost = [name for name, table in source.tables.items() if name not in target.tables and rows_of(read, table)]
        if lost:
            raise Refused(f"the server's database has no table {', '.join(lost)}.")
        for table in reversed(shared):
            write.execute(table.delete())
        for table in shared:
            copy_table(source.tables[table.name], table, read, write)
            count_on(write, table)
        read.rollback()  # the file is free again while the artifacts are sent
        copy_files(moved_places(write, target), destination)


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        sys.exit("usage: python docker/mlflow_migrate.py mlruns/mlflow.db")
    file = Path(arguments[0])
    plain_checksums(os.environ)
    if wrong := refusal(dict(os.environ)):
        sys.exit(f"ERROR: {wrong}")
    if not file.is_file():
        sys.exit(f"ERROR: {file} is not there.")
    database, destination = os.environ["MLFLOW_BACKEND_STORE_URI"], os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
    try:
        reach_database(database)
        make_bucket(destination, os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
        upgrade(database)
        move(file, database, destination)
    except Refused as error:
        sys.exit(f"ERROR: nothing was moved: {error}")
    except FAILURES as error:
        sys.exit(f"ERROR: nothing was moved: {error}")
    print(f"The rows and artifacts of {file} are on the server.")


if __name__ == "__main__":
    main(sys.argv[1:])
