"""MLflow's registry: which version of a registered model is the champion, and another in its place.

A version leads to the LoggedModel of a policy (models.py) and so to its training, its data and its scores. Its weights
are not in MLflow: in their place lie a stub, so that MLflow can say so, and a page that says where they are.
"""

import json
import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from sqlalchemy.exc import SQLAlchemyError

from epsilon_dpo.mlflow_writer.models import POLICY, Models
from epsilon_dpo.mlflow_writer.server import reach_server
from epsilon_dpo.mlflow_writer.store import LOCK_S, SQLITE, database_of, open_store, root
from epsilon_dpo.pipeline.observability.errors import UserError, first_line
from epsilon_dpo.pipeline.observability.tracker import NETWORK_LIMITS

CHAMPION = "champion"  # the alias
STUB = "flavors: {{}}\nmodel_id: {model}\nrun_id: {run}\nmetadata:\n  mlflow.model.isExternal: true\n"
WAY = "WEIGHTS.md"
ABSENT, THERE = "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        tags: what `promote` was given.
    """

    name: str
    number: str
    tags: dict[str, str]


class Registry:
    """The versions of the registered model `name`; inside `opened`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.store = open_store()
        self.client = self.store.client
        mlflow.set_tracking_uri(self.client.tracking_uri)  # `models:/` is resolved through the global one

    def champion(self) -> Version | None:
        """The version that has the alias; None: nobody has promoted one under this name."""
        try:
            number = self.client.get_registered_model(self.name).aliases.get(CHAMPION)
        except MlflowException as error:
            if error.error_code != ABSENT:
                raise
            return None
        if number is None:
            return None
        return Version(self.name, str(number), dict(self.client.get_model_version(self.name, str(number)).tags))

    def policy(self, run: str, sha256: str) -> str | None:
        """The id of the LoggedModel of a policy, which is made if the store has only the row of its training; None: not
        even that."""
        models = Models(self.client, self.store.experiment)
        if known := models.find(run, sha256):
            return known
        asked = f"tags.stage = 'align' and tags.run = '{run}' and tags.{POLICY} = '{sha256}'"
        rows = self.client.search_runs([self.store.experiment], asked, max_results=1)
        return models.ensure(rows[0].info.run_id, run, sha256)[0] if rows else None

    @contextmanager
    def decided_alone(self) -> Iterator[None]:
        """No other promotion from this project, or into the same local store, in the block.

        Raises:
            UserError: another one takes longer than LOCK_S.
        """
        lock = database_of(os.environ.get("MLFLOW_TRACKING_URI", ""), root()).parent / ".promotion.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            held = FileLock(lock).acquire(timeout=LOCK_S)
        except Timeout:
            raise UserError(f"another `epsilon-dpo promote` is at work, which holds {lock}; wait for it.") from None
        with held:
            yield

    def promote(self, model: str, over: Version | None, tags: Mapping[str, str], description: str, way: str) -> Version:
        """Register the LoggedModel with the id `model` as the next version, and give it the alias.

        MLflow cannot move an alias on a condition. So the champion is read once more just before, as it is before there
        is a version: what another clone promotes on the same server between this and the next request goes unnoticed.

        Args:
            over: the champion that it was compared with; None: there was none.
            description: of the version, Markdown.
            way: how to reach the weights, Markdown.

        Raises:
            UserError: another is the champion by now; the version is taken back where the server allows it.
        """
        made = self.client.get_logged_model(model)
        if self.store.takes_artifacts:
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "MLmodel").write_text(STUB.format(model=model, run=made.source_run_id), "utf-8")
                Path(folder, WAY).write_text(way, "utf-8")
                self.client.log_model_artifacts(model, folder)
        try:
            self.client.create_registered_model(
                self.name, description="Policies that `epsilon-dpo promote` found better than the champion before them."
            )
        except MlflowException as error:
            if error.error_code != THERE:
                raise
        self._is_still(over)
        version = self.client.create_model_version(
            self.name,
            f"models:/{model}",
            run_id=made.source_run_id,
            tags=dict(tags),
            description=description,
            model_id=model,
        )
        try:
            self._is_still(over)
        except UserError:
            with suppress(MlflowException):  # on a server with logins who may register may not delete
                self.client.delete_model_version(self.name, version.version)
                self._show_on_model(model, str(version.version), False)
            raise
        self.client.set_registered_model_alias(self.name, CHAMPION, version.version)
        self._show_on_model(model, str(version.version))
        return Version(self.name, str(version.version), dict(tags))

    def _is_still(self, champion: Version | None) -> None:
        now = self.champion()
        if (now and now.number) != (champion and champion.number):
            found = f"version {now.number} is its champion by now" if now else "it has no champion any more"
            raise UserError(
                f"nothing is promoted: {self.name} was changed while this was decided, {found}, with which nothing was "
                "compared; run `epsilon-dpo promote` again."
            )

    def _show_on_model(self, model: str, number: str, is_there: bool = True) -> None:
        """Name the version on the page of its LoggedModel, which MLflow does on a server and not in a local store, or
        no longer, which it never does."""
        known = json.loads(self.client.get_logged_model(model).tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
        named = [each for each in known if (each["name"], str(each["version"])) != (self.name, number)]
        if is_there == (len(named) == len(known)):
            named += [{"name": self.name, "version": number}] * is_there
            self.client.set_logged_model_tags(model, {MLFLOW_MODEL_VERSIONS: json.dumps(named)})


@contextmanager
def opened(name: str, make: bool = False) -> Iterator[Registry]:
    """The registry of the store that stages write to.

    Args:
        make: the store, if it does not exist.

    Raises:
        UserError: there is none, it cannot be reached, or MLflow refuses something, such as a name.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    for variable, value in {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", **NETWORK_LIMITS}.items():
        os.environ.setdefault(variable, value)
    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        database = database_of(uri, root())
        if not make and (not uri or uri.startswith(SQLITE)) and not database.is_file():
            raise UserError(f"{database} does not exist, so no policy is registered; `epsilon-dpo promote` makes it.")
        reach_server(uri)
        yield Registry(name)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise UserError(f"MLflow's registry does not answer as needed: {first_line(error)}.") from None
