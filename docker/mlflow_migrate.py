"""Move the rows and artifacts of a project's mlruns/mlflow.db to the server that mlflow_server.py would start.

`python docker/mlflow_migrate.py mlruns/mlflow.db`, with the environment of mlflow_server.py and that server stopped
(its database has to be there and empty but for users). Rows keep their ids, so links hold; the file is only read. The
rows come over in one transaction: a failure leaves the server's database as it was.
"""

import os
import sys
from pathlib import Path

from mlflow_server import make_bucket, refusal, upgrade
from sqlalchemy import (
    Connection,
    Engine,
    MetaData,
    Table,
    create_engine,
    func,
    insert,
    select,
    text,
    type_coerce,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

VERSION = "alembic_version"
# What says where files are, by table.
PLACES = {"experiments": "artifact_location", "runs": "artifact_uri", "logged_models": "artifact_location"}
ROWS = 5000  # at a time


class Refused(Exception):
    """One sentence for the user."""


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


def copy_rows(file: Path, database: str) -> dict[str, str]:
    """Everything but users; the folders of the experiments' artifacts as the file has them, by id.

    Raises:
        Refused: the two are not of one version of MLflow, or the target holds runs.
    """
    old, new = create_engine(f"sqlite:///{file}"), create_engine(database)
    source, target = tables_of(old), tables_of(new)
    if VERSION not in source.tables:
        raise Refused(f"{file} is not a store of MLflow.")
    with old.connect() as read, new.begin() as write:
        versions = [c.execute(select(t.tables[VERSION])).scalar_one() for c, t in ((read, source), (write, target))]
        if versions[0] != versions[1]:
            raise Refused(f"{file} is of another version of MLflow; first run: mlflow db upgrade sqlite:///{file}")
        if rows_of(write, target.tables["runs"]):
            raise Refused("the server's database holds runs already; a new database is needed.")
        shared = [table for table in target.sorted_tables if table.name in source.tables and table.name != VERSION]
        lost = [name for name, table in source.tables.items() if name not in target.tables and rows_of(read, table)]
        if lost:
            raise Refused(f"the server's database has no table {', '.join(lost)}.")
        for table in reversed(shared):
            write.execute(table.delete())
        for table in shared:
            copy_table(source.tables[table.name], table, read, write)
            count_on(write, table)
        experiments = target.tables["experiments"]
        folders = {
            str(row.experiment_id): row.artifact_location
            for row in write.execute(select(experiments.c.experiment_id, experiments.c.artifact_location))
        }
        for experiment, folder in folders.items():
            for name, column in PLACES.items():
                place = target.tables[name].c[column]
                moved = func.concat(f"mlflow-artifacts:/{experiment}", func.substr(place, len(folder) + 1))
                write.execute(
                    update(target.tables[name]).where(place.startswith(folder, autoescape=True)).values({column: moved})
                )
    return folders


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        sys.exit("usage: python docker/mlflow_migrate.py mlruns/mlflow.db")
    file = Path(arguments[0])
    if wrong := refusal(dict(os.environ)):
        sys.exit(f"ERROR: {wrong}")
    if not file.is_file():
        sys.exit(f"ERROR: {file} is not there.")
    database, destination = os.environ["MLFLOW_BACKEND_STORE_URI"], os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
    upgrade(database)
    try:
        folders = copy_rows(file, database)
    except Refused as error:
        sys.exit(f"ERROR: {error}")
    except SQLAlchemyError as error:
        sys.exit(f"ERROR: nothing was moved: {error}")
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    make_bucket(destination, os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
    for experiment, folder in folders.items():
        if Path(folder).is_dir():
            get_artifact_repository(f"{destination}/{experiment}").log_artifacts(folder)
        else:
            print(f"experiment {experiment} has no artifacts in {folder} on this machine; its rows came over alone.")
    print(f"The rows and artifacts of {file} are on the server.")


if __name__ == "__main__":
    main(sys.argv[1:])
