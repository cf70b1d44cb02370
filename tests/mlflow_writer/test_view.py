"""The comparison in MLflow's UI: it is no ranking, and a store of before shows it too."""

import json
from pathlib import Path

import pytest

from epsilon_dpo.mlflow_writer.replicates import mark_replicate
from epsilon_dpo.mlflow_writer.store import Store, open_store
from epsilon_dpo.mlflow_writer.view import COLUMNS, SHARED_VIEW, VIEW, experiment_tags


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return open_store()


def test_no_rate_orders_the_rows_and_none_stands_without_its_interval() -> None:
    shown = json.loads(experiment_tags()[SHARED_VIEW + VIEW])
    assert shown["orderByKey"] == "tags.`mlflow.runName`"
    rates = [column for column in COLUMNS if "win_rate" in column and not column.endswith(("_low`", "_high`"))]
    assert rates == ["metrics.`true_win_rate/sft`", "metrics.`win_rate/sft`"], "the truth's first"
    for rate in rates:
        at = COLUMNS.index(rate)
        assert COLUMNS[at + 1 : at + 3] == (rate[:-1] + "_low`", rate[:-1] + "_high`")


def test_an_older_stores_view_is_renewed_and_its_note_kept(store: Store) -> None:
    for key in (SHARED_VIEW + VIEW, "mlflow.note.content"):
        store.client.set_experiment_tag(store.experiment, key, "of before")
    tags = open_store().client.get_experiment(store.experiment).tags
    assert tags["mlflow.note.content"] == "of before"
    assert tags[SHARED_VIEW + VIEW] == experiment_tags()[SHARED_VIEW + VIEW]


def test_each_level_of_a_study_has_a_view_of_its_own_rows(store: Store) -> None:
    """One view for all showed an empty page of every level but the first."""
    for sha256 in ("1a", "1b", "2a"):
        tags = {"stage": "align", "run": "dpo", "policy_sha256": sha256}
        store.client.create_run(store.experiment, run_name="align@dpo", tags=tags)
    for level, seed, sha256 in (("controlled", 17, "1a"), ("controlled", 18, "1b"), ("rlhf", 17, "2a")):
        assert mark_replicate(level, seed, {"dpo": sha256, "not_here": "3a"}) == 1
    assert mark_replicate("smollm2", 17, {"not_here": "3a"}) == 0
    tags = store.client.get_experiment(store.experiment).tags
    views = {json.loads(value)["name"]: value for key, value in tags.items() if key.startswith(f"{SHARED_VIEW}study-")}
    assert views.keys() == {"Replication study, controlled", "Replication study, rlhf"}
    for name, shown in (("controlled", {"1a", "1b"}), ("rlhf", {"2a"})):
        state = json.loads(json.loads(views[f"Replication study, {name}"])["state"])
        found = store.client.search_runs([store.experiment], state["searchFilter"])
        assert {run.data.tags["policy_sha256"] for run in found} == shown and state["useGroupedValuesInCharts"]
