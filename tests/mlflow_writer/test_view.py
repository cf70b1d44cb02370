"""The comparison in MLflow's UI: it is no ranking, and a store of before shows it too."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Param

from epsilon_dpo.mlflow_writer import pending
from epsilon_dpo.mlflow_writer.replicates import mark_replicate, write_summary
from epsilon_dpo.mlflow_writer.store import Store, open_store
from epsilon_dpo.mlflow_writer.view import COLUMNS, POLICIES, SEEDS, SHARED_VIEW, VIEW, experiment_tags


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


def test_where_seeds_are_averaged_no_interval_is_shown() -> None:
    """The mean of several intervals' ends is the end of none; a single policy's are shown."""
    drawn = {}
    for view in (POLICIES, SEEDS):
        state = json.loads(json.loads(experiment_tags()[SHARED_VIEW + view])["state"])
        assert state["columnOrder"] == state["selectedColumns"] == [*state["columnWidths"]]
        drawn[view] = [*state["selectedColumns"], *(card.get("metricKey", "") for card in state["compareRunCharts"])]
    ends = {view: sum("_low" in name or "_high" in name for name in shown) for view, shown in drawn.items()}
    assert ends == {POLICIES: 8, SEEDS: 0}
    assert {"metrics.`true_win_rate/sft`", "true_win_rate/sft", "win_rate/sft"} <= {*drawn[SEEDS]}


def test_an_older_stores_view_is_renewed_and_its_note_kept(store: Store) -> None:
    for key in (SHARED_VIEW + VIEW, "mlflow.note.content"):
        store.client.set_experiment_tag(store.experiment, key, "of before")
    tags = open_store().client.get_experiment(store.experiment).tags
    assert tags["mlflow.note.content"] == "of before"
    assert tags[SHARED_VIEW + VIEW] == experiment_tags()[SHARED_VIEW + VIEW]


def test_each_level_of_a_study_has_a_view_of_its_own_rows(store: Store) -> None:
    """One view for all showed an empty page of every level but the first. The row of `2a` is of an older version."""
    for sha256 in ("1a", "1b", "2a"):
        tags = {"stage": "align", "run": "dpo", "policy_sha256": sha256}
        tags |= {} if sha256 == "2a" else {"recipe": "dpo, beta 0.1"}
        store.client.create_run(store.experiment, run_name="align@dpo", tags=tags)
    for level, seed, sha256 in (("controlled", 17, "1a"), ("controlled", 18, "1b"), ("rlhf", 17, "2a")):
        assert mark_replicate(level, seed, {"dpo": sha256, "not_here": "3a"}) == 1
    assert mark_replicate("smollm2", 17, {"not_here": "3a"}) == 0
    tags = store.client.get_experiment(store.experiment).tags
    views = {json.loads(value)["name"]: value for key, value in tags.items() if key.startswith(f"{SHARED_VIEW}study-")}
    assert views.keys() == {"Replication study, controlled, seeds", "Replication study, rlhf, seeds"}
    for name, shown in (("controlled", {"1a", "1b"}), ("rlhf", {"2a"})):
        state = json.loads(json.loads(views[f"Replication study, {name}, seeds"])["state"])
        found = store.client.search_runs([store.experiment], state["searchFilter"])
        assert {run.data.tags["policy_sha256"] for run in found} == shown and state["useGroupedValuesInCharts"]
        drawn = [*state["selectedColumns"], *(card.get("metricKey", "") for card in state["compareRunCharts"])]
        assert not [name for name in drawn if "_low" in name], "the average over seeds of an interval's end is none"
        assert {"metrics.`true_win_rate/chosen`", "tags.`study_seed`"} <= {*drawn}


def test_replicates_that_an_older_version_marked_are_of_one_recipe_with_those_of_today(store: Store) -> None:
    """It wrote what it saw first, and numbers as they stood there; of seed 1 nothing is marked again."""
    said = {"1a": "tr_dpo, update soft, beta 1.0", "2a": "tr_dpo, beta 1, update soft"}
    for (sha256, name), beta in zip(said.items(), ("1.0", "1"), strict=True):
        tags = {"stage": "align", "run": "tr_dpo", "policy_sha256": sha256, "recipe": name}
        row = store.client.create_run(store.experiment, run_name="align@tr_dpo", tags=tags).info.run_id
        params = {"run.method": "tr_dpo", "run.update": "soft", "run.beta": beta, "run.seed": "None", "seed": "1"}
        store.client.log_batch(row, params=[Param(*each) for each in params.items()])
        if sha256 == "1a":
            store.client.set_tag(row, "study", "older")
    assert mark_replicate("older", 2, {"tr_dpo": "2a"}) == 1
    found = store.client.search_runs([store.experiment], "tags.study = 'older'")
    assert [row.data.tags["recipe"] for row in found] == ["tr_dpo, beta 1, update soft"] * 2
    view = store.client.get_experiment(store.experiment).tags[f"{SHARED_VIEW}study-older-seeds"]
    assert [*json.loads(json.loads(view)["state"])["groupsExpanded"]] == ["tag.recipe.tr_dpo, beta 1, update soft"]


def recipe(beta: float | None, method: str = "dpo", **metrics: float) -> dict[str, Any]:
    params = {"method": method} | ({} if beta is None else {"beta": beta})
    return {"params": params, "seeds": "1 2 3", "metrics": {"replicates": 3} | metrics}


def test_a_study_has_one_row_per_recipe_which_a_repeat_renews(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown() -> dict[str, dict[str, float]]:
        tags = store.client.get_experiment(store.experiment).tags
        state = json.loads(json.loads(tags[f"{SHARED_VIEW}study-small"])["state"])
        columns = {column.split("`")[1] for column in state["selectedColumns"]}
        found = store.client.search_runs([store.experiment], state["searchFilter"], order_by=["attributes.run_name"])
        assert {run.info.status for run in found} == {"FINISHED"} and not state["groupBy"]
        assert all(run.data.metrics.keys() <= columns for run in found)
        names = [f"{run.info.run_name} of {run.data.tags['project'][0]}" for run in found]
        return dict(zip(names, (run.data.metrics for run in found), strict=True)) | {"rows": {"": len(found)}}

    monkeypatch.setattr(pending, "project", lambda: "ada")
    first = [recipe(None, "sft", kl=0.0), recipe(0.1, kl=2.0, kl_low=1.0, kl_high=3.0), recipe(0.3, kl=1.0)]
    for _ in range(2):
        address = write_summary("small", first, "95%")
        assert shown()["rows"] == {"": 3}
    assert address.startswith(
        f"http://127.0.0.1:5000/#/experiments/{store.experiment}/runs?viewStateShareKey=study-small&"
    )
    (run,) = store.client.search_runs([store.experiment], "tags.recipe = 'dpo, beta 0.1'")
    assert len(store.client.get_metric_history(run.info.run_id, "study/kl")) == 1
    assert run.data.tags.items() >= {"study_summary": "small", "method": "dpo", "seeds": "1 2 3"}.items()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.client.tracking_uri)  # shared: another project keeps its rows
    monkeypatch.setattr(pending, "project", lambda: "bob")
    write_summary("small", [recipe(0.1, kl=9.0)], "95%")
    monkeypatch.setattr(pending, "project", lambda: "ada")
    write_summary("small", [recipe(None, "sft", kl=0.0), recipe(0.1, kl=4.0)], "95%")
    assert shown() == {
        "sft of a": {"study/kl": 0.0, "study/replicates": 3.0},
        "dpo, beta 0.1 of a": {"study/kl": 4.0, "study/replicates": 3.0},  # whose interval is of other replicates
        "dpo, beta 0.1 of b": {"study/kl": 9.0, "study/replicates": 3.0},
        "rows": {"": 3},
    }
