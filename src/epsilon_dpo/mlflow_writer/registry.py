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
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, LoggedModel, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from sqlalchemy.exc import SQLAlchemyError

from epsilon_dpo.mlflow_writer.models import POLICY, Models
from epsilon_dpo.mlflow_writer.reading import first_trained, read_only
from epsilon_dpo.mlflow_writer.server import ABSENT, reach_server, wait_briefly
from epsilon_dpo.mlflow_writer.store import LOCK_S, database_of, open_store, root
from epsilon_dpo.pipeline.observability.errors import UserError, first_line, redacted
from epsilon_dpo.pipeline.stage.disk import FULL, REFUSED

CHAMPION = "champion"  # the alias
STUB = "flavors: {{}}\nmodel_id: {model}\nrun_id: {run}\nmetadata:\n  mlflow.model.isExternal: true\n"
WAY = "WEIGHTS.md"
STATE, BEGUN, DONE = "promotion", "begun", "done"  # a tag of each version
CANDIDATE = (
    "A candidate, not the champion: its promotion was begun and not finished. `epsilon-dpo promote RUN` finishes it "
    "if the run is still better."
)
THERE = "RESOURCE_ALREADY_EXISTS"


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
        return _champion(self.client, self.name)

    def policy(self, run: str, sha256: str) -> str | None:
        """The id of the LoggedModel of a policy, which is made if the store has only the row of its training; None: not
        even that.

        Raises:
            UserError: that row was deleted, and none was written in its place.
        """
        if row := self._training(run, sha256):
            return Models(self.client, self.store.experiment).ensure(row, run, sha256)[0]
        if deleted := self._training(run, sha256, ViewType.DELETED_ONLY):  # MLflow deletes no model with it
            raise UserError(
                f"MLflow's row of align@{run} with this policy was deleted, and a version must link to one that is "
                f"there: `MLFLOW_TRACKING_URI={redacted(self.client.tracking_uri)} mlflow runs restore --run-id "
                f"{deleted}` brings it back, `python -m epsilon_dpo.report.page.tracked` writes another from out/."
            )
        return None

    def _training(self, run: str, sha256: str, which: int = ViewType.ACTIVE_ONLY) -> str | None:
        """The id of the row of the training that made this policy, or of one written from the outputs in its place."""
        asked = f"tags.stage = 'align' and tags.run = '{run}' and tags.{POLICY} = '{sha256}'"
        found = first_trained(self.client.search_runs([self.store.experiment], asked, which))
        return str(found.info.run_id) if found else None

    def _row_of(self, model: LoggedModel) -> str | None:
        """The id of the row that a version of this model leads to: that of its training; if it is deleted, another of
        the same policy."""
        row: str | None = model.source_run_id
        with suppress(MlflowException):  # `mlflow gc` has taken it away
            if row and self.client.get_run(row).info.lifecycle_stage == LifecycleStage.ACTIVE:
                return row
        return self._training(model.tags["run"], model.tags[POLICY])

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

        Until it has the alias the version calls itself a candidate: a server may go away between the two. The next
        promotion of the same policy takes up a candidate that was left.

        MLflow cannot move an alias on a condition. So the champion is read once more just before, as it is before there
        is a version: what another clone promotes on the same server between this and the next request goes unnoticed.

        Args:
            over: the champion that it was compared with; None: there was none.
            description: of the version, Markdown.
            way: how to reach the weights, Markdown.

        Raises:
            UserError: another is the champion by now; the version is taken back where the server allows it.
        """
        row = self._row_of(self.client.get_logged_model(model))
        if self.store.takes_artifacts:
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "MLmodel").write_text(STUB.format(model=model, run=row), "utf-8")
                Path(folder, WAY).write_text(way, "utf-8")
                self.client.log_model_artifacts(model, folder)
        try:
            self.client.create_registered_model(
                self.name,
                description="Policies that `epsilon-dpo promote` found better than the champion before them, or, the "
                "first, than SFT.",
            )
        except MlflowException as error:
            if error.error_code != THERE:
                raise
        self._is_still(over)
        version = self._candidate(model, row, tags, f"{CANDIDATE}\n\n{way}")
        try:
            self._is_still(over)
        except UserError:
            with suppress(MlflowException):  # on a server with logins who may register may not delete
                self.client.delete_model_version(self.name, version)
                self._show_on_model(model, version, False)
            raise
        self.client.set_registered_model_alias(self.name, CHAMPION, version)
        champion = Version(self.name, version, dict(tags))
        self.describe(champion, description, {})
        self._show_on_model(model, version)
        return champion

    def _candidate(self, model: str, row: str | None, tags: Mapping[str, str], description: str) -> str:
        """The number of a new version of this LoggedModel, or of one whose promotion did not end."""
        known = self.client.search_model_versions(f"name = '{self.name}'")
        for version in known:
            if version.source == f"models:/{model}" and version.tags.get(STATE) == BEGUN:
                return self._taken_up(version, tags, description)
        made = self.client.create_model_version(
            self.name,
            f"models:/{model}",
            run_id=row,
            tags={**tags, STATE: BEGUN},
            description=description,
            model_id=model,
        )
        return str(made.version)

    def _taken_up(self, version: ModelVersion, tags: Mapping[str, str], description: str) -> str:
        """Give a candidate the tags of this decision in place of those of the one that did not end."""
        number = str(version.version)
        for tag in version.tags.keys() - {*tags, STATE}:
            self.client.delete_model_version_tag(self.name, number, tag)
        for tag, value in tags.items():
            self.client.set_model_version_tag(self.name, number, tag, value)
        self.client.update_model_version(self.name, number, description)
        return number

    def describe(self, champion: Version, description: str, late: Mapping[str, str]) -> None:
        """Let the version with the alias say that it was promoted, unless it does so already and `late` is empty.

        Args:
            late: tags that the version lacks, or has otherwise.
        """
        if late or champion.tags.get(STATE) != DONE:
            self.client.update_model_version(self.name, champion.number, description)
            for tag, value in {**late, STATE: DONE}.items():
                self.client.set_model_version_tag(self.name, champion.number, tag, value)

    def _is_still(self, champion: Version | None) -> None:
        now = self.champion()
        if (now and now.number) != (champion and champion.number):
            found = f"version {now.number} is its champion by now" if now else "it has no champion any more"
            raise UserError(
                f"nothing is promoted: {self.name} was changed during the comparison: {found}; "
                "run `epsilon-dpo promote` again."
            )

    def _show_on_model(self, model: str, number: str, is_there: bool = True) -> None:
        """Name the version on the page of its LoggedModel, or take its name away. MLflow itself does the former on a
        server but not in a local store, and never the latter."""
        known = json.loads(self.client.get_logged_model(model).tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
        others = [each for each in known if (each["name"], str(each["version"])) != (self.name, number)]
        is_named = others != known
        if is_there != is_named:
            wanted = [*others, {"name": self.name, "version": number}] if is_there else others
            self.client.set_logged_model_tags(model, {MLFLOW_MODEL_VERSIONS: json.dumps(wanted)})


def champion_of(name: str, project: Path) -> Version | None:
    """As Registry.champion, of the store of the folder `project`; nothing is written, neither there nor on a server.

    Raises:
        UserError: there is no store, or it cannot be read or reached.
    """
    with _in_a_sentence():
        _be_quiet()
        with read_only(project) as client:
            if client is not None:
                return _champion(client, name)
    database = database_of(os.environ.get("MLFLOW_TRACKING_URI", ""), project)
    raise UserError(
        f"{database} is no store of MLflow's, so no policy is registered there; `epsilon-dpo promote` makes it."
    )


def _champion(client: MlflowClient, name: str) -> Version | None:
    try:
        number = client.get_registered_model(name).aliases.get(CHAMPION)
    except MlflowException as error:
        if error.error_code != ABSENT:
            raise
        return None
    if number is None:
        return None
    return Version(name, str(number), dict(client.get_model_version(name, str(number)).tags))


@contextmanager
def opened(name: str) -> Iterator[Registry]:
    """The registry of the store that stages write to, which is made if it does not exist.

    Raises:
        UserError: it cannot be reached, or MLflow refuses something, such as a name.
    """
    with _in_a_sentence(), _address_taken_back():
        _be_quiet()
        reach_server(os.environ.get("MLFLOW_TRACKING_URI", ""))
        yield Registry(name)


@contextmanager
def _address_taken_back() -> Iterator[None]:
    """MLflow would keep the address that Registry gives to the process, and pass over MLFLOW_TRACKING_URI from then on,
    which it also overwrites."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # which also takes the variable away
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _be_quiet() -> None:
    wait_briefly()
    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.WARNING)


@contextmanager
def _in_a_sentence() -> Iterator[None]:
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        if isinstance(error, OSError) and error.errno in (*FULL, *REFUSED):
            raise  # pipeline/stage/disk.py has the sentence
        uri = redacted(os.environ.get("MLFLOW_TRACKING_URI", ""))  # an ImportError is that of a database's driver
        raise UserError(
            f"MLflow's registry{uri and f' at {uri}'} does not answer as needed: {first_line(error)}."
        ) from None
