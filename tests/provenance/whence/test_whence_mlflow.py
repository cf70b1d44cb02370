"""`epsilon-dpo whence` and the store of MLflow: which run is a stage's, and that reading it changes nothing."""

import shutil
from pathlib import Path

import pytest
from asking import POLICY, subjects, whence, write_yaml

from epsilon_dpo.cli import main
from epsilon_dpo.pipeline.stage.fingerprint import declared_params, dependencies, digest, fingerprint, stage_entry
from epsilon_dpo.pipeline.stage.params import read_yaml


def record(at: int, name: str, made_from: str, **tags: str) -> None:
    """A finished run, as the process behind the tracker writes it; `at`: ms since 1970."""
    from epsilon_dpo.mlflow_writer.environment import environment
    from epsilon_dpo.mlflow_writer.record import Record  # imports mlflow, which no other test of this process needs

    stage, _, run = name.partition("@")
    entry = stage_entry(stage, run or None)
    made_on = environment(Path.cwd())
    row = Record(name, made_from, declared_params(entry), dependencies(entry), at, environment=made_on)
    row.tags(tags)
    row.close("FINISHED")


@pytest.fixture
def tracked(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project in whose store each of two stages has its run and, newer, another with the same params."""
    monkeypatch.chdir(shutil.copytree(project, tmp_path / "copy"))
    figures = stage_entry("figures", None)
    record(1000, "align@dpo", "x", policy_sha256=digest(Path("out/align/dpo/model")))
    record(2000, "figures", fingerprint(figures, dependencies(figures)))
    record(3000, "align@dpo", "y", policy_sha256="0" * 64)
    record(4000, "figures", "z")
    record(5000, "align@ipo", "first")
    return Path.cwd()


@pytest.mark.slow
def test_the_run_is_that_of_the_result(tracked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {str(file): file.stat().st_mtime_ns for file in tracked.rglob("*")}
    policy = whence(capsys, POLICY)["mlflow"]
    assert (policy["name"], policy["known_by"]) == ("align@dpo", "policy_sha256")
    assert {"python", "torch", "transformers", "mlflow.source.git.commit"} <= policy["environment"].keys()
    assert policy["link"] == f"#/experiments/1/runs/{policy['id']}"
    figure = whence(capsys, "out/figures/images/pareto.png")["mlflow"]
    assert (figure["name"], figure["known_by"]) == ("figures", "fingerprint")
    other = whence(capsys, "out/align/metrics/ipo/metrics.json")["mlflow"]
    assert (other["name"], other["known_by"]) == ("align@ipo", "params")
    assert {str(file): file.stat().st_mtime_ns for file in tracked.rglob("*")} == before
    main(["whence", POLICY])
    text = capsys.readouterr().out
    assert f"behind the address of `mlflow ui`: {policy['link']}\n" in text and "; known by its policy_sha256\n" in text
    assert "environment  python 3." in text and "\n  packages     torch 2.13.0\n" in text


@pytest.mark.slow
def test_the_run_is_that_of_the_result_also_where_a_stage_behind_it_ran_again_alone(
    tracked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As by `dvc repro -s`: the commit still has what it was made from, and the workspace its fingerprint."""
    before = whence(capsys, "out/figures/images/pareto.png")["mlflow"]
    lock = read_yaml(Path("dvc.lock"))
    lock["stages"]["fetch"]["outs"][0]["md5"] = f"{'0' * 32}.dir"
    write_yaml(Path("dvc.lock"), lock)
    after = whence(capsys, "out/figures/images/pareto.png")
    assert subjects(after) == ["the second results"] and after["mlflow"] == before
    assert before["known_by"] == "fingerprint"


@pytest.mark.slow
def test_a_row_written_from_the_outputs_says_no_time_of_training(
    tracked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from epsilon_dpo.mlflow_writer.store import open_store  # imports mlflow

    trained = whence(capsys, POLICY)["mlflow"]
    record(6000, "align@dpo", "x", policy_sha256=digest(Path("out/align/dpo/model")), rebuilt="true")
    assert whence(capsys, POLICY)["mlflow"] == trained
    store = open_store()
    store.client.delete_run(trained["id"])
    main(["whence", POLICY])
    said = " ".join(capsys.readouterr().out.split())
    assert ", written from the outputs on 1970-01-01 00:00 UTC; when it was trained is not known; known by" in said
    store.client.delete_experiment(store.experiment)
    assert "the experiment epsilon-dpo is deleted" in whence(capsys, POLICY)["mlflow"]["failed"]


@pytest.mark.slow
def test_a_store_that_cannot_be_read_costs_a_line(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shutil.copytree(project, tmp_path / "copy"))
    Path("mlruns").mkdir()
    Path("mlruns/mlflow.db").write_text("no database")
    main(["whence", POLICY])
    text = capsys.readouterr().out
    assert "made by      stage align@dpo\n" in text and "MLflow run   not looked up: " in text


@pytest.mark.slow
def test_a_server_that_is_down_is_not_waited_for(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is asked whether it is there, since MLflow itself tries for four minutes and then says so in other terms."""
    monkeypatch.chdir(shutil.copytree(project, tmp_path / "copy"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    main(["whence", POLICY])
    assert "MLflow run   not looked up: http://127.0.0.1:9: " in capsys.readouterr().out
