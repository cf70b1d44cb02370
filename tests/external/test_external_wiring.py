"""external/dvc.yaml against the code it runs, as tests/test_dag.py does for the root's, and apart from the root's."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from epsilon_dpo.external.answers.params import AnswersView
from epsilon_dpo.external.benchmarks.params import ExportView, ScoreboardView, VerdictsView
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.params import load, parse, read_yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from closure import ROOT, pins, rooms

EXTERNAL = ROOT / "external"
STAGES = read_yaml(EXTERNAL / "dvc.yaml")["stages"]


def entry(stage: str) -> dict[str, Any]:
    return STAGES[stage].get("do", STAGES[stage])


def code_deps(stage: str) -> list[str]:
    """What `deps` of `stage` must hold of the project's code, as paths relative to external/."""
    return sorted(os.path.relpath(ROOT / dep, EXTERNAL) for dep in rooms(EXTERNAL / f"{stage}.py"))


def test_one_name_in_every_place() -> None:
    assert sorted(STAGES) == sorted(path.stem for path in EXTERNAL.glob("*.py"))
    for stage in STAGES:
        assert entry(stage)["cmd"].split()[:2] == ["python", f"{stage}.py"]
        for out in entry(stage)["outs"]:
            assert out.split("/")[:2] == ["out", stage]


def test_the_page_says_which_scores_are_on_no_policys_row() -> None:
    said = re.search(r"on the policy's own row (.*?)\. ", (ROOT / "docs/external.md").read_text("utf-8"), re.DOTALL)
    script = (ROOT / "external/verdicts.py").read_text("utf-8")
    assert said and re.findall(r'if run\.policy != "(\w+)"', script) == re.findall(r"`(\w+)`", said[1]) == ["sft"]


def test_no_stage_has_the_name_of_one_of_the_root() -> None:
    """Both write MLflow runs into one experiment."""
    assert not set(STAGES) & set(read_yaml(ROOT / "dvc.yaml")["stages"])


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_rooms_of_the_import_closure(stage: str) -> None:
    declared = sorted(dep for dep in entry(stage)["deps"] if dep.startswith("../src/") or dep.endswith(".py"))
    assert declared == code_deps(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_params_hold_the_pins_of_the_import_closure(stage: str) -> None:
    declared = [key["../pins.yaml"] for key in entry(stage)["params"] if isinstance(key, dict)]
    assert [package for packages in declared for package in packages] == pins(EXTERNAL / f"{stage}.py")


VIEWS = {"answers": AnswersView, "export": ExportView, "verdicts": VerdictsView, "scoreboard": ScoreboardView}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_exactly_the_params_it_declares(stage: str) -> None:
    tree = ast.parse((EXTERNAL / f"{stage}.py").read_text("utf-8"))
    views = [
        getattr(importlib.import_module(node.module or ""), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.endswith("View")
    ]
    assert views == [VIEWS[stage]]
    declared = {key.split(".")[0] for key in entry(stage)["params"] if isinstance(key, str)}
    assert set(VIEWS[stage].model_fields) == declared


def test_the_shipped_params_are_valid_and_every_key_is_read() -> None:
    path = EXTERNAL / "params.yaml"
    for view in VIEWS.values():
        load(view, path)
    assert set(read_yaml(path)) == {key for view in VIEWS.values() for key in view.model_fields}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": -1}, r"seed = -1 is refused: input should be greater than or equal to 0"),
        ({"threads": 5000}, r"threads = 5000 is refused: input should be less than or equal to 1024"),
        (
            {"decoding": {"arena_hard": {"temperature": 200.0, "max_new_tokens": 1, "batch_size": 1}}},
            r"decoding.arena_hard.temperature = 200.0 is refused: input should be less than or equal to 100",
        ),
    ],
)
def test_what_no_sampling_takes_is_refused(change: dict[str, Any], sentence: str) -> None:
    content = {
        key: value for key, value in read_yaml(EXTERNAL / "params.yaml").items() if key in AnswersView.model_fields
    }
    change = {key: content[key] | value if isinstance(value, dict) else value for key, value in change.items()}
    with pytest.raises(UserError, match=sentence):
        parse(AnswersView, content | change)


def dvc(project: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "dvc"), *arguments], cwd=project, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_dvc_runs_the_two_files_apart(tmp_path: Path) -> None:
    """The root's `dvc repro` runs no external stage; an external stage brings the policy it needs up to date."""
    (tmp_path / "external" / "data" / "mt_bench").mkdir(parents=True)
    (tmp_path / "external" / "data" / "mt_bench" / "question.jsonl").write_text("{}\n")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  align:\n    foreach: [dpo, other]\n    do:\n"
        "      cmd: mkdir -p out/align && echo ${item} > out/align/${item}\n      outs: ['out/align/${item}']\n"
    )
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    shutil.copy(ROOT / "pins.yaml", tmp_path)
    stages = {
        name: {"foreach": stage["foreach"], "do": stage["do"] | {"cmd": f"mkdir -p out/{name}/${{key}}", "deps": data}}
        for name, stage in STAGES.items()
        if (data := [dep for dep in stage["do"]["deps"] if "${" in dep or dep == "out/verdicts"])
    }
    yaml = YAML()
    yaml.dump({"stages": stages}, tmp_path / "external" / "dvc.yaml")
    config = read_yaml(EXTERNAL / "params.yaml") | {"runs": {"one": {"policy": "align/dpo", "benchmark": "mt_bench"}}}
    config["scoreboard"] = {"page": {"runs": ["one"]}}
    yaml.dump(config, tmp_path / "external" / "params.yaml")
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    dvc(tmp_path, "init", "-q")
    assert "answers" not in dvc(tmp_path, "repro")
    assert (tmp_path / "out" / "align" / "other").is_file() and not (tmp_path / "external" / "out").exists()
    (tmp_path / "out" / "align" / "dpo").unlink()
    (tmp_path / "out" / "align" / "other").unlink()
    printed = dvc(tmp_path, "repro", "--no-run-cache", "external/dvc.yaml")
    assert [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")][-4:] == [
        f"external/dvc.yaml:{name}" for name in ("answers@one", "export@one", "verdicts@one", "scoreboard@page")
    ]
    assert (tmp_path / "out" / "align" / "dpo").is_file() and not (tmp_path / "out" / "align" / "other").exists()
