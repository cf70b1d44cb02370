"""Reading MLflow's store, without making one or changing it; and finding the MLflow run of a stage's result again."""

import os
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from epsilon_dpo.mlflow_writer.environment import LIBRARIES, ROUNDING
from epsilon_dpo.mlflow_writer.identity import flat
from epsilon_dpo.mlflow_writer.server import reach_server, wait_briefly
from epsilon_dpo.mlflow_writer.store import (
    EXPERIMENT,
    SQLITE,
    address,
    database_of,
    own_schema,
    refuse_deleted,
    schema_of,
)
from epsilon_dpo.pipeline.stage.files import Json

AT_ONCE = 50  # each brings all its metrics
ENVIRONMENT = (
    *("python", "machine", *ROUNDING, "gpu", *LIBRARIES),
    *("mlflow.source.git.commit", "git.uncommitted_changes"),
)


@contextmanager
def read_only(root: Path) -> Iterator[MlflowClient | None]:
    """A client of the store that stages of the project `root` write to, unless MLFLOW_TRACKING_URI names another; None:
    there is no store yet.

    Raises:
        OSError, sqlite3.Error, sqlalchemy.exc.SQLAlchemyError, MlflowException: it cannot be read or reached.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    local = not uri or uri.startswith(SQLITE)
    database = database_of(uri, root)
    if local:
        schema = schema_of(database) if database.is_file() else None
        if schema is None:
            yield None
            return
        if schema != own_schema():  # which MLflow would change
            raise MlflowException(f"{database} is of another MLflow version; the next stage upgrades an older one")
    wait_briefly()
    reach_server(uri)
    with chdir(root):  # MLflow's own default for artifacts is a folder of the working one
        yield MlflowClient(address(database) if local else uri)


def recorded_run(
    root: Path, name: str, params: Json, policy_sha256: str | None = None, fingerprint: str | None = None
) -> Json | None:
    """The newest finished run of stage `name` (align@dpo) with these params; None: there is none, or no store.

    A row that a report wrote from the outputs, since the training's own was lost, counts where there is no other.

    Args:
        root: of the project, whose store is read unless MLFLOW_TRACKING_URI names another.
        params: as the stage declares them, by dotted key.
        policy_sha256, fingerprint: tags by which the very run is known; where no run has the one, the other counts,
            then the params alone.

    Returns:
        `id`, `name`, `started` (ms since 1970), `link` behind the address of `mlflow ui`, `environment` (tags),
        `rebuilt` (`started` is when the row was written from the outputs) and `known_by`: policy_sha256, fingerprint or
        params.

    Raises:
        as read_only, and MlflowException: the experiment is deleted.
    """
    with read_only(root) as client:
        if client is None:
            return None
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return None
        refuse_deleted(experiment)
        for tag, value in (("policy_sha256", policy_sha256), ("fingerprint", fingerprint)):
            tagged = _runs(client, experiment.experiment_id, name, f"tags.{tag} = '{value}'") if value else ()
            if known := first_trained(tagged):
                return _facts(known, tag)
        wanted = {key: str(value) for key, value in flat(params)}
        same = (run for run in _runs(client, experiment.experiment_id, name) if run.data.params == wanted)
        run = first_trained(same)
    return _facts(run, "params") if run else None


def _runs(client: MlflowClient, experiment: str, name: str, besides: str = "") -> Iterator[Run]:
    """The finished runs of this stage, newest first."""
    stage, _, run = name.partition("@")
    asked = [f"tags.stage = '{stage}'", "attributes.status = 'FINISHED'"]
    asked += [f"tags.run = '{run}'"] * bool(run) + [besides] * bool(besides)
    return all_runs(client, experiment, " and ".join(asked), AT_ONCE, ["attributes.start_time DESC"])


def all_runs(
    client: MlflowClient, experiment: str, query: str, at_once: int, order: list[str] | None = None
) -> Iterator[Run]:
    """Every run that `query` finds. They are fetched `at_once` at a time, as they are read: read all of them before you
    change what the query looks at."""
    token = None
    while True:
        page = client.search_runs([experiment], query, max_results=at_once, order_by=order, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def first_trained(runs: Iterable[Run]) -> Run | None:
    """The first that was written by its training; if none was, the first that a report wrote from the outputs."""
    rebuilt = None
    for run in runs:
        if "rebuilt" not in run.data.tags:
            return run
        rebuilt = rebuilt or run
    return rebuilt


def _facts(run: Run, known_by: str) -> Json:
    tags: dict[str, Any] = run.data.tags
    return {
        "id": run.info.run_id,
        "name": run.info.run_name,
        "started": run.info.start_time,
        "link": f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}",
        "environment": {key: tags[key] for key in ENVIRONMENT if key in tags},
        "rebuilt": "rebuilt" in tags,
        "known_by": known_by,
    }
