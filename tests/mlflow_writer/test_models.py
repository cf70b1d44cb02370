"""A policy is one model of MLflow, however often its rows are written, and what is measured of it is found there."""

import os
from pathlib import Path
from typing import Any

import pytest
from direct_tracker import Direct
from mlflow import MlflowClient
from mlflow.entities import LoggedModel

from epsilon_dpo.mlflow_writer.record import Record
from epsilon_dpo.mlflow_writer.store import open_store
from epsilon_dpo.pipeline.observability.tracker import now

INPUTS = {
    "align": {"out/pairs": "1" * 64, "out/sft": "2" * 64},
    "sample": {"out/validate": "3" * 64},
    "kl": {"out/pairs": "1" * 64},
    "report": {"out/score": "4" * 64},
}


@pytest.fixture
def store(shared: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.chdir(shared)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    # A name of its own: MLflow keeps the databases that it has opened by their addresses, which are relative.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///store_of_models/mlflow.db")
    return open_store().client


def stage(name: str, **params: Any) -> Direct:
    kind, _, run = name.partition("@")
    return Direct(name, "f" * 64, {f"runs.{run}": {"method": "dpo", "beta": 0.3}} | params, INPUTS[kind])


def models(store: MlflowClient, run: str) -> list[LoggedModel]:
    experiment = store.get_experiment_by_name("epsilon-dpo")
    assert experiment is not None
    found = store.search_logged_models([experiment.experiment_id], f"tags.run = '{run}'")
    return sorted(found, key=lambda model: model.name)


def rows(store: MlflowClient, name: str) -> list[Any]:
    experiment = store.get_experiment_by_name("epsilon-dpo")
    assert experiment is not None
    found = store.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    return [store.get_run(run.info.run_id) for run in found]  # the search leaves out what they read


def test_a_training_makes_one_model_and_its_repetition_none(store: MlflowClient) -> None:
    for _ in range(2):
        with stage("align@mine", seed=17) as tracker:
            tracker.log_metrics({"steps": 30})
            tracker.set_tags({"policy_sha256": "ab" * 32})
    (model,) = models(store, "mine")
    assert (model.name, model.status.value, model.model_type) == ("align@mine", "READY", "policy")
    assert model.params == {"seed": "17", "run.method": "dpo", "run.beta": "0.3"}
    expected = {"policy_sha256": "ab" * 32, "dvc_path": "out/align/mine/model", "run": "mine", "method": "dpo"}
    assert expected.items() <= model.tags.items()
    said = model.tags["mlflow.note.content"]
    assert "`out/pairs`" in said and "1" * 32 in said and "`out/align/mine/model`" in said
    first = rows(store, "align@mine")[-1]
    assert model.source_run_id == first.info.run_id
    assert [(made.model_id, made.step) for made in first.outputs.model_outputs] == [(model.model_id, 30)]
    assert os.listdir("store_of_models/artifacts") and not list(Path.cwd().rglob("*.safetensors"))


def test_each_snapshot_is_a_model_at_its_step(store: MlflowClient) -> None:
    with stage("align@kept") as tracker:
        tracker.log_metrics({"steps": 30})
        tracker.set_tags({"policy_sha256/snapshots/000010": "1a" * 32, "policy_sha256": "1b" * 32})
    final, snapshot = models(store, "kept")
    assert (final.name, snapshot.name) == ("align@kept", "align@kept-10")
    assert snapshot.tags["dvc_path"] == "out/align/kept/snapshots/000010/model"
    (row,) = rows(store, "align@kept")
    steps = {made.model_id: made.step for made in row.outputs.model_outputs}
    assert steps == {final.model_id: 30, snapshot.model_id: 10}


def test_what_reads_a_policy_names_it_and_gives_it_its_metrics_once(store: MlflowClient) -> None:
    with stage("align@read") as tracker:
        tracker.set_tags({"policy_sha256": "2a" * 32})
    (model,) = models(store, "read")
    for name, metric in (("sample@read", "mean_tokens"), ("kl@read", "kl_fwd_rb")):
        with stage(name) as tracker:
            tracker.set_tags({"policy_sha256": "2a" * 32})
            tracker.log_metrics({metric: 1.5})
            tracker.log_to_policy("2a" * 32, {metric: 1.5})
    measured = {}
    for name in ("sample@read", "kl@read"):
        (row,) = rows(store, name)
        assert [read.model_id for read in row.inputs.model_inputs] == [model.model_id]
        assert [len(store.get_metric_history(row.info.run_id, metric)) for metric in row.data.metrics] == [1]
        measured[name] = row.info.run_id
    found = store.get_logged_model(model.model_id).metrics or []
    assert {(m.key, m.value, m.run_id, m.dataset_name, m.dataset_digest) for m in found} == {
        ("mean_tokens", 1.5, measured["sample@read"], "out/validate", "3" * 32),
        ("kl_fwd_rb", 1.5, measured["kl@read"], "out/pairs", "1" * 32),
    }


def test_what_a_stage_uses_is_no_metric_of_the_policy_that_it_read(store: MlflowClient) -> None:
    """As of a stage that hashes its inputs once more, after it has named the policy."""
    with stage("align@used") as tracker:
        tracker.set_tags({"policy_sha256": "6a" * 32})
    record = Record("kl@used", "f" * 64, {}, INPUTS["kl"], at=now())
    record.tags({"policy_sha256": "6a" * 32})
    sample = {"metrics": {}, "step": 1, "at": now(), "resources": {"system/stage_cpu_seconds": 3.0}}
    record.metric_rows([{"metrics": {"kl_fwd_rb": 1.5}, "step": 0, "at": now()}, sample])
    record.close("FINISHED")
    (model,) = models(store, "used")
    assert [m.key for m in store.get_logged_model(model.model_id).metrics or []] == ["kl_fwd_rb"]
    assert store.get_run(record.run_id).data.metrics == {"kl_fwd_rb": 1.5, "system/stage_cpu_seconds": 3.0}


def test_a_message_with_many_metrics_of_a_policy_may_be_written_again(store: MlflowClient) -> None:
    """Whose first answer was lost: else the record waits for ever."""
    with stage("align@again") as tracker:
        tracker.set_tags({"policy_sha256": "7a" * 32})
    record = Record("kl@again", "f" * 64, {}, INPUTS["kl"], at=now())
    record.tags({"policy_sha256": "7a" * 32})
    message = {"metrics": {f"metric_{i}": 1.0 * i for i in range(150)}, "step": 0, "at": now()}
    for _ in range(2):
        record.metric_rows([message])
    record.close("FINISHED")
    (model,) = models(store, "again")
    found = store.get_logged_model(model.model_id).metrics or []
    assert sorted(metric.value for metric in found) == [*range(150)]
    assert store.get_run(record.run_id).data.metrics == message["metrics"]


def test_a_model_that_was_not_finished_is_finished_by_the_next_try(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server went away when all but the last of its calls had come through."""

    def go_away(*_: Any) -> None:
        raise TimeoutError

    record = Record("align@begun", "f" * 64, {}, INPUTS["align"], at=now())
    with monkeypatch.context() as outage, pytest.raises(TimeoutError):
        outage.setattr(record.client, "finalize_logged_model", go_away)
        record.tags({"policy_sha256": "8a" * 32})
    record.tags({"policy_sha256": "8a" * 32})
    record.close("FINISHED")
    (model,), (row,) = models(store, "begun"), rows(store, "align@begun")
    assert model.status.value == "READY"
    assert [made.model_id for made in row.outputs.model_outputs] == [model.model_id]


def test_another_policy_of_the_run_is_another_model_and_an_unknown_one_is_no_input(store: MlflowClient) -> None:
    for sha256 in ("3a" * 32, "3b" * 32):
        with stage("align@twice") as tracker:
            tracker.set_tags({"policy_sha256": sha256})
    assert {model.tags["policy_sha256"] for model in models(store, "twice")} == {"3a" * 32, "3b" * 32}
    with stage("sample@twice") as tracker:
        tracker.set_tags({"policy_sha256": "3c" * 32})
        tracker.log_metrics({"mean_tokens": 2.0})
    (row,) = rows(store, "sample@twice")
    assert row.inputs.model_inputs == [] and row.data.metrics == {"mean_tokens": 2.0}


def test_two_runs_that_made_the_same_policy_have_a_model_each(store: MlflowClient) -> None:
    """As of a line of params.yaml that was copied under another name: either may be promoted."""
    for run in ("line", "copy_of_line"):
        with stage(f"align@{run}") as tracker:
            tracker.set_tags({"policy_sha256": "5a" * 32})
    found = {run: [model.name for model in models(store, run)] for run in ("line", "copy_of_line")}
    assert found == {"line": ["align@line"], "copy_of_line": ["align@copy_of_line"]}


def test_a_report_makes_the_model_of_a_result_whose_rows_are_lost(store: MlflowClient) -> None:
    policy = {
        "run": "lost",
        "policy_sha256": "4a" * 32,
        "params": {"runs.lost": {"method": "dpo", "beta": 0.2}},
        "metrics": {"win_rate/sft": 0.6, "eval_loss": 0.4, "steps": 3},
        "curve": [{"step": 2, "loss": 0.5}],
    }
    for _ in range(2):
        with stage("report") as tracker:
            tracker.mark_compared([policy])
        (row,) = rows(store, "align@lost")
        assert row.data.tags["recipe"] == "dpo, beta 0.2"
    (model,) = models(store, "lost")
    assert model.params == {"run.method": "dpo", "run.beta": "0.2"} and model.tags["rebuilt"] == "true"
    found = store.get_logged_model(model.model_id).metrics or []
    assert {(m.key, m.value) for m in found} == {("win_rate/sft", 0.6), ("eval_loss", 0.4), ("steps", 3.0)}
    # As of the training itself: the policy of its last step, at which its curve of the evaluation ends.
    assert [(made.model_id, made.step) for made in row.outputs.model_outputs] == [(model.model_id, 3)]
    curve = store.get_metric_history(row.info.run_id, "1_train/eval_loss")
    assert [(point.step, point.value) for point in curve] == [(3, 0.4)]
