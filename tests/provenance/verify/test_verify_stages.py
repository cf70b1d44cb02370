"""`epsilon-dpo verify` on stages of this repository, and the report's certificate, as a user goes through them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from whole_pipeline import copy_project, dvc, environment

from epsilon_dpo.pipeline.stage.params import read_yaml

pytestmark = pytest.mark.slow

STAGES = ("check", "fetch", "base", "validate", "sft")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default's first stages with a few steps of SFT, and their result."""
    project = copy_project(tmp_path_factory.mktemp("verify") / "project", tracked=True)
    content = read_yaml(project / "dvc.yaml")
    stages = {name: content["stages"][name] for name in STAGES}
    with (project / "dvc.yaml").open("w", encoding="utf-8") as file:
        YAML().dump({"stages": stages}, file)
    params = read_yaml(project / "params.yaml")
    params["fetch"]["train_pairs"] = 1000
    params["sft"] |= {"max_steps": 8}
    with (project / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(params, file)
    done = dvc(project, "repro", "-q")
    assert done.returncode == 0, done.stderr[-3000:]
    return project


def verify(project: Path, *arguments: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "epsilon_dpo.cli", "verify", *arguments]
    env = environment(project, **changes)
    return subprocess.run(command, cwd=project, env=env, text=True, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("stages", "kept"), [(("fetch", "sft"), True), pytest.param((), False, marks=pytest.mark.campaign, id="all")]
)
def test_each_stage_is_bit_equal_in_a_clean_folder(
    project: Path, tmp_path: Path, stages: tuple[str, ...], kept: bool
) -> None:
    lock, before = (project / "dvc.lock").read_bytes(), certificates(project)
    done = verify(project, *stages, *(["--folder", str(tmp_path / "clean")] if kept else []))
    assert done.returncode == 0, done.stdout + done.stderr
    count = len(stages or STAGES)
    assert f"of {count} stages {count} bit-equal" in done.stdout
    assert (project / "dvc.lock").read_bytes() == lock
    assert len(certificates(project) - before) == 1
    assert (tmp_path / "clean/mlruns/mlflow.db").exists() == kept, "a store of its own"


def certificates(project: Path) -> set[Path]:
    return set((project / "certificates").glob("*.json"))


def test_narrower_vectors_differ_and_are_named(project: Path) -> None:
    done = verify(project, "sft", ATEN_CPU_CAPABILITY="default")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(("sft                      different", "sft                      equal within"))
    assert "out/sft/metrics.jsonl: step " in lines[1]
    assert "out/sft/model/model.safetensors: tensor " in done.stdout
    assert (
        "processor features: run once more without ATEN_CPU_CAPABILITY=default, as it was recorded, it is bit-equal"
        in (done.stdout)
    ), done.stdout + done.stderr
    found = [json.loads(file.read_text()) for file in (project / "certificates").glob("*.json")]
    causes = [part["stages"]["sft"].get("likely_cause", "") for part in found if "sft" in part["stages"]]
    assert sum(cause.startswith("processor features") for cause in causes) == 1
