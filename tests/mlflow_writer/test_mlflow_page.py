"""What a person finds on MLflow's page: curves, speed, answers, notes, and what belongs together."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from epsilon_dpo.mlflow_writer.answers import TABLE, table
from epsilon_dpo.mlflow_writer.identity import flat, identity, made_by, recipe, recipe_of, report_mark
from epsilon_dpo.mlflow_writer.notes import EXTERNAL, command, note
from epsilon_dpo.mlflow_writer.reading import recorded_run
from epsilon_dpo.mlflow_writer.registry import opened
from epsilon_dpo.mlflow_writer.resources import TOKENS, Resources
from epsilon_dpo.mlflow_writer.store import open_store
from epsilon_dpo.mlflow_writer.view import NAMES, SHARED_VIEW, experiment_tags
from epsilon_dpo.pipeline.stage.params import read_yaml

ROOT = Path(__file__).resolve().parents[2]


def test_the_named_views_have_charts_and_fit_into_a_tag() -> None:
    tags = experiment_tags()
    for key, name in NAMES.items():
        saved = tags[SHARED_VIEW + key]
        assert len(saved) < 20_000, "MLflow cuts an experiment's tag there"
        view = json.loads(saved)
        assert view["name"] == name and json.loads(view["state"])["compareRunCharts"]
        assert f"viewStateShareKey={key}&" in tags["mlflow.note.content"]
    seeds = json.loads(json.loads(tags[f"{SHARED_VIEW}seeds"])["state"])
    assert seeds["useGroupedValuesInCharts"] and seeds["groupBy"]["aggregateFunction"] == "average"
    first, *_ = seeds["compareRunSections"]
    drawn = {axis: chart[axis]["key"] for chart in seeds["compareRunCharts"][:1] for axis in ("xaxis", "yaxis")}
    assert first["uuid"] == "truth" and drawn == {"xaxis": "kl_fwd_rb", "yaxis": "true_win_rate/sft"}


def test_runs_that_differ_by_their_seed_alone_are_one_group() -> None:
    """Of the same β are not: the values of a method may differ, too, and their mean would be of no policy."""
    dpo: dict[str, Any] = {"method": "dpo", "beta": 0.1}
    same = [dpo | {"seed": 3}, dpo | {"snapshot_epochs": 0.5}, dpo | {"epsilon": None}]
    assert {recipe(config) for config in (dpo, *same)} == {"dpo, beta 0.1"}
    assert recipe(dpo | {"beta": 0.2}) == "dpo, beta 0.2"
    written = "{method: tr_dpo, beta: 1.0, update: soft, alpha: 0.60, sync_steps: 32, learning_rate: 1e-5}"
    again = "{learning_rate: 0.00001, sync_steps: 32, alpha: 6e-1, beta: 1, update: soft, method: tr_dpo}"
    alike = {recipe(YAML(typ="safe").load(text)) for text in (written, again)}
    assert alike == {"tr_dpo, beta 1, alpha 0.6, learning_rate 1e-05, sync_steps 32, update soft"}
    assert recipe({"method": "epsilon_dpo", "beta": 0.1, "epsilon": 0.01}) == "epsilon_dpo, beta 0.1, epsilon 0.01"
    assert identity("align@x", {"runs.x": dpo})["recipe"] == "dpo, beta 0.1" and "recipe" not in identity("sft", {})
    seeds = json.loads(json.loads(experiment_tags()[f"{SHARED_VIEW}seeds"])["state"])
    assert seeds["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "recipe"}]


def test_a_recipe_is_read_from_the_params_of_a_row() -> None:
    """That an older version of this project wrote; of every run of the presets, and of a method with nested values."""
    files = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]
    runs = [entry for file in files for entry in read_yaml(file)["runs"].values()]
    odd = {"method": "own", "whiten": False, "seed": None, "sizes": [1, 2.0], "of": {"rate": 1e-06, "name": "a, b"}}
    assert recipe(odd) == "own, of.name a, b, of.rate 1e-06, sizes [1, 2.0], whiten false"
    for entry in (*runs, odd):
        logged = {key: str(value) for key, value in flat({"seed": 3, "runs.x": entry})}
        assert recipe_of(logged) == recipe(entry)
    assert len(runs) > 20 and recipe_of({"seed": "3", "run": "x"}) is None


def test_values_of_a_run_are_written_as_in_params_yaml() -> None:
    entry = {"method": "ppo", "whiten": False, "seed": None, "gamma": 0.5}
    assert "The run: method ppo, whiten false, seed null, gamma 0.5\n" in note("align@x", {"runs.x": entry})
    assert recipe(entry) == "ppo, gamma 0.5, whiten false"


def test_a_stage_belongs_to_the_nearest_dvc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the `dvc` of an experiment may be the worker of a queue, which is one for all of them."""
    shell, own, worker = (SimpleNamespace(pid=pid, create_time=lambda pid=pid: 100.0 + pid) for pid in (7, 8, 9))
    monkeypatch.setattr(psutil, "Process", lambda _: SimpleNamespace(parents=lambda: [shell, own, worker]))
    monkeypatch.setattr("epsilon_dpo.mlflow_writer.identity.is_dvc", lambda process: process is not shell)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    assert made_by(6) == {"repro": "108-8"}


def test_a_method_that_changes_no_beta_has_no_chart_of_it() -> None:
    """The page hides a chart without values; one of several metrics it would draw with a legend of them all."""
    shown = json.loads(json.loads(experiment_tags()[f"{SHARED_VIEW}policies"])["state"])
    lines = [chart["selectedMetricKeys"] for chart in shown["compareRunCharts"] if chart["type"] == "LINE"]
    assert shown["hideEmptyCharts"] and all(len(metrics) == 1 for metrics in lines)
    assert ["1_train/eps/beta"] in lines and ["1_train/ppo/beta"] in lines


def test_speed_is_that_of_this_process_and_not_of_what_was_said_before_a_resumption() -> None:
    stage = Resources(None, at=0)
    for step in range(5):  # all at once: the rows of before
        assert "2_speed/tokens_per_second" not in stage.of_row({TOKENS: 1000 * step}, at=10_000 + step)
    assert stage.of_row({TOKENS: 4600}, at=11_004)["2_speed/tokens_per_second"] == pytest.approx(600.0)
    assert stage.of_row({TOKENS: 4700}, at=11_104) == {"2_speed/seconds": 11.104}, "a rate over 0.1 s is noise"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's peaks are Linux's")
def test_a_training_under_a_launcher_has_the_peak_memory_of_its_processes() -> None:
    """The stage itself only waits for them."""
    held = "data = b'x' * 200_000_000; print(flush=True); input()"
    waiting = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {held!r}])"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", waiting], **pipes) as stage:
        assert stage.stdout is not None
        stage.stdout.readline()
        found = Resources(stage.pid, at=0).of_row({}, at=1)
        stage.communicate(b"\n")
    assert 200 < found["2_speed/peak_memory_megabytes"] < 400


NVIDIA_SMI = f"""#!{sys.executable}
import sys

cards = [
    {{"index": "0", "utilization.gpu": "87", "memory.used": "40536", "power.draw": "301.50"}},
    {{"index": "1", "utilization.gpu": "3", "memory.used": "512", "power.draw": "[N/A]"}},
    {{"index": "2", "utilization.gpu": "[N/A]", "memory.used": "1024", "power.draw": "90.00"}},
]
asked = sys.argv[1].removeprefix("--query-gpu=").split(",")
for card in cards:
    print(", ".join(card[name] for name in asked))
"""


def test_what_a_gpu_uses_stands_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second does not measure its power, and the third, which MIG cuts into parts, has no utilization."""
    (tmp_path / "nvidia-smi").write_text(NVIDIA_SMI, "utf-8")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = Resources(os.getpid(), at=0).sample()
    assert {name: value for name, value in found.items() if name.startswith("system/gpu_")} == {
        "system/gpu_0_utilization_percentage": 87.0,
        "system/gpu_0_memory_usage_megabytes": 40536 * 2**20 / 1e6,
        "system/gpu_0_power_usage_watts": 301.5,
        "system/gpu_1_utilization_percentage": 3.0,
        "system/gpu_1_memory_usage_megabytes": 512 * 2**20 / 1e6,
        "system/gpu_2_memory_usage_megabytes": 1024 * 2**20 / 1e6,
        "system/gpu_2_power_usage_watts": 90.0,
    }


def write(file: Path, *rows: dict) -> None:
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_answers_stand_with_their_verdicts(tmp_path: Path) -> None:
    assert table("dpo", "of_dpo", tmp_path) is None
    prompt = [{"role": "user", "content": "Why?"}]
    write(tmp_path / "sample/dpo/samples.jsonl", {"id": "1", "prompt": prompt, "response": "So."})
    verdict = {"id": "1", "answer": "run"}
    write(
        tmp_path / "score/dpo/records.jsonl",
        {**verdict, "opponent": "chosen", "win": 1.0},
        {**verdict, "opponent": "sft", "win": 0.5, "true_win": 0.0},
        {**verdict, "answer": "sft", "opponent": "chosen", "win": 0.0},
    )
    for name in ("sample", "score"):
        (tmp_path / name / "dpo/metrics.json").write_text('{"policy_sha256": "of_dpo"}')
    made = table("dpo", "of_dpo", tmp_path)
    assert made is not None and TABLE.endswith(".json")
    (row,) = made["data"]
    assert dict(zip(made["columns"], row, strict=True)) == {
        "prompt": "Why?",
        "answer": "So.\n\n[judge: won against chosen, tied against SFT; truth: lost]",
        "against chosen": "won",
        "against sft": "tied",
        "truth against sft": "lost",
    }
    assert table("dpo", "of the day before, whose report had waited", tmp_path) is None


@pytest.mark.parametrize("older", ["sample", "score"])
def test_answers_do_not_stand_with_the_verdicts_on_those_of_another_policy(tmp_path: Path, older: str) -> None:
    """A `dvc repro` was stopped in between."""
    sample = {"id": "1", "prompt": [{"content": "Why?"}], "response": "So."}
    write(tmp_path / "sample/dpo/samples.jsonl", sample)
    write(tmp_path / "score/dpo/records.jsonl", {"id": "1", "answer": "run", "opponent": "sft", "win": 1.0})
    for name in ("sample", "score"):
        said = json.dumps({"policy_sha256": "of_the_day_before" if name == older else "of_dpo"})
        (tmp_path / name / "dpo/metrics.json").write_text(said)
    assert table("dpo", "of_dpo", tmp_path) is None


def test_a_refusal_is_no_tie(tmp_path: Path) -> None:
    """Its record holds a half, as that of a tie."""
    write(tmp_path / "sample/dpo/samples.jsonl", {"id": "1", "prompt": [{"content": "Why?"}], "response": "So."})
    record = {"id": "1", "answer": "run", "win": 0.5, "true_win": 1.0}
    write(
        tmp_path / "score/dpo/records.jsonl",
        {**record, "opponent": "chosen", "refused": False},
        {**record, "opponent": "sft", "refused": True},
    )
    for name in ("sample", "score"):
        (tmp_path / name / "dpo/metrics.json").write_text('{"policy_sha256": "of_dpo"}')
    made = table("dpo", "of_dpo", tmp_path)
    assert made is not None
    (row,) = made["data"]
    assert row[1:] == [
        "So.\n\n[judge: tied against chosen, not judged (refused) against SFT; truth: won]",
        "tied",
        "not judged (refused)",
        "won",
    ]


def test_a_note_says_what_a_row_is_and_where_its_weights_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    said = note("align@dpo", {"runs.dpo": {"method": "dpo", "beta": 0.1}})
    assert "policy" in said.splitlines()[0]
    assert "method dpo, beta 0.1" in said and "`out/align/dpo/model`" in said
    monkeypatch.chdir(tmp_path)
    assert note("fetch", {}).startswith("**fetch**: a stage of the pipeline")


def test_the_notes_of_external_stages_name_their_own_files_and_commands() -> None:
    """They run in external/, by another dvc.yaml."""
    root = Path(__file__).parents[2]
    assert set(EXTERNAL) == set(read_yaml(root / "external" / "dvc.yaml")["stages"])
    said = note("verdicts@mine", {})
    assert "`external/out/verdicts/mine`" in said and "whence external/out/verdicts/mine`" in said
    assert "`python verdicts.py mine` in external/" in said
    assert said.endswith("`dvc repro external/dvc.yaml:verdicts@mine`.")
    assert command("verdicts@mine") == "python verdicts.py mine" and command("kl@mine") == "python -m stages.kl mine"
    assert "`out/kl/mine`" in note("kl@mine", {})


def test_a_relative_address_is_one_of_the_project_also_in_an_experiments_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / ".dvc/tmp/exps/standalone/x"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///own/rows.db")
    open_store()
    assert (tmp_path / "own/rows.db").is_file() and not (copy / "own").exists()
    assert recorded_run(tmp_path, "align@dpo", {}) is None
    with opened("best") as registry, registry.decided_alone():
        assert registry.champion() is None


def test_a_queued_experiments_report_marks_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / ".dvc/tmp/exps/standalone/x"
    copy.mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("DVC_EXP_NAME", "tidy-lynx")
    monkeypatch.chdir(tmp_path)
    assert report_mark() == "in_report"  # `dvc exp run` in the workspace itself
    monkeypatch.chdir(copy)
    assert report_mark() == "in_report.tidy-lynx"
    monkeypatch.setenv("DVC_EXP_NAME", "eps=0.02,seed@2")
    assert report_mark() == "in_report.eps_0.02_seed_2", "MLflow refuses = and the like in a tag's name"
