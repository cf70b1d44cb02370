"""The store of another MLflow than the one installed: an older one is brought up to date whole, a newer one is left."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
from sqlalchemy import create_engine

from epsilon_dpo.mlflow_writer import store
from epsilon_dpo.mlflow_writer.reading import read_only

DATABASE = Path("mlruns/mlflow.db")


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store as MLflow made it a dozen changes of its tables ago, with one experiment; its revision."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    config = _get_alembic_config(store.address(DATABASE.resolve()))
    revisions = [found.revision for found in ScriptDirectory.from_config(config).walk_revisions()]  # the newest first
    DATABASE.parent.mkdir()
    Base.metadata.create_all(create_engine(store.address(DATABASE.resolve())))
    command.upgrade(config, revisions[12])
    with closing(sqlite3.connect(DATABASE)) as connection, connection:
        connection.execute("INSERT INTO experiments (name, lifecycle_stage) VALUES ('kept', 'active')")
    return revisions[12]


def test_an_older_store_is_brought_up_to_date_as_a_copy(older: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = DATABASE.read_bytes()
    with pytest.raises(MlflowException, match="is of another MLflow"), read_only(Path.cwd()):
        pass
    assert DATABASE.read_bytes() == before, "reading changes nothing"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("mlflow.store.db.utils._upgrade_db", killed)
        with pytest.raises(KeyboardInterrupt):
            store.open_store()
    assert DATABASE.read_bytes() == before, "neither does a kill in the middle"
    opened = store.open_store()
    assert store.schema_of(DATABASE.resolve()) == store.own_schema() != older
    assert opened.client.get_experiment_by_name("kept") is not None
    assert Path(f"mlruns/mlflow.before-{older}").read_bytes() == before
    with read_only(Path.cwd()) as client:
        assert client is not None


def test_a_newer_store_is_left_as_it_is(older: str) -> None:
    with closing(sqlite3.connect(DATABASE)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of_next_year'")
    before = DATABASE.read_bytes()
    with pytest.raises(MlflowException, match=r"mlflow\.db is of a newer MLflow; install that one, or move"):
        store.open_store()
    assert DATABASE.read_bytes() == before and sorted(path.name for path in DATABASE.parent.iterdir()) == [
        ".lock", "mlflow.db",
    ]  # fmt: skip


def test_a_server_that_takes_no_views_takes_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow took 5,000 characters before it took 20,000, and a saved view has more."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    store._say_that_views_are_refused.cache_clear()
    monkeypatch.setattr("mlflow.utils.validation.MAX_EXPERIMENT_TAG_VAL_LENGTH", 5000)
    opened = store.open_store()
    found = opened.client.get_experiment(opened.experiment)
    assert found.name == store.EXPERIMENT and "mlflow.note.content" in found.tags
    assert not [key for key in found.tags if key.startswith(store.SHARED_VIEW)]
    assert capsys.readouterr().err.count("this server is older and takes no saved views; all else is recorded") == 1


def test_the_store_of_an_experiment_in_a_folder_of_its_own_is_the_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dvc exp run --temp` works in a copy; of this project an address can hold no absolute path."""
    project = tmp_path / "50%20 of #1"
    copy = project / ".dvc" / "tmp" / "exps" / "copy"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(project))
    opened = store.open_store()
    assert opened.is_local and opened.takes_artifacts
    assert (project / DATABASE).is_file() and not list(copy.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == [project.name]


def test_a_project_that_was_moved_says_how_to_keep_files_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    monkeypatch.chdir(before)
    assert store.open_store().takes_artifacts
    monkeypatch.chdir(before.rename(after))
    assert not store.open_store().takes_artifacts
    said = capsys.readouterr().err
    assert f"{after}/{DATABASE} was made for artifacts in {before}/mlruns/artifacts, so none are kept" in said
    assert said.endswith(f"move the project back, or {after}/mlruns away for a new store.\n")
