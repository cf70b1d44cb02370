"""The comparison in MLflow's UI: it is no ranking, and a store of before shows it too."""

import json
from pathlib import Path

import pytest

from epsilon_dpo.mlflow_writer.store import open_store
from epsilon_dpo.mlflow_writer.view import COLUMNS, SHARED_VIEW, VIEW, experiment_tags


def test_no_rate_orders_the_rows_and_none_stands_without_its_interval() -> None:
    shown = json.loads(experiment_tags()[SHARED_VIEW + VIEW])
    assert shown["orderByKey"] == "tags.`mlflow.runName`"
    rates = [column for column in COLUMNS if "win_rate" in column and not column.endswith(("_low`", "_high`"))]
    assert rates == ["metrics.`true_win_rate/sft`", "metrics.`win_rate/sft`"], "the truth's first"
    for rate in rates:
        at = COLUMNS.index(rate)
        assert COLUMNS[at + 1 : at + 3] == (rate[:-1] + "_low`", rate[:-1] + "_high`")


def test_an_older_stores_view_is_renewed_and_its_note_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    store = open_store()
    for key in (SHARED_VIEW + VIEW, "mlflow.note.content"):
        store.client.set_experiment_tag(store.experiment, key, "of before")
    tags = open_store().client.get_experiment(store.experiment).tags
    assert tags["mlflow.note.content"] == "of before"
    assert tags[SHARED_VIEW + VIEW] == experiment_tags()[SHARED_VIEW + VIEW]
