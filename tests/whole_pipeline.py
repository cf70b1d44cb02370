"""A copy of the project in a repository of its own, and `dvc` in it as a user runs it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from epsilon_dpo.pipeline.stage.params import read_yaml

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CARRIED = (
    *("dvc.yaml", "params.yaml", "pins.yaml", ".dvcignore", ".dvc/config", "mlruns/.gitignore"),
    *("data/.gitignore", "data/README.md", "study/verdicts.json"),
    *("stages", "src", "presets", "certificates"),
)
NOBODY = "http://127.0.0.1:9"  # nobody listens: a stage does not import MLflow, a quarter of what a small one computes
TRACKED = "mlruns/.tracked"


def copy_project(to: Path, tracked: bool = False) -> Path:
    """A fresh checkout of what the pipeline needs, in a repository of its own.

    Args:
        tracked: what runs in it, and in copies of it, has its MLflow store.
    """
    for name in CARRIED:
        source, target = ROOT / name, to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, target)
    if tracked:
        (to / TRACKED).touch()
    subprocess.run(["git", "init", "-q", "."], cwd=to, check=True)
    return to


def link_files(folder: Path, to: Path) -> None:
    """The files of `folder` as links in `to`, as `cp -rs` makes them: into linked folders DVC does not look."""
    for file in (file for file in folder.rglob("*") if file.is_file()):
        target = to / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file.resolve())


def with_preset(project: Path, name: str, changes: dict[str, Any]) -> None:
    """presets/<name>.yaml as params.yaml, with `changes` by dotted key."""
    content = read_yaml(project / "presets" / f"{name}.yaml")
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        block = content
        for key in path:
            block = block[key]
        assert last in block, dotted
        block[last] = value
    with (project / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(content, file)


def environment(project: Path, **changes: str) -> dict[str, str]:
    """With the code of `project` and no network for the Hub."""
    env = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(project / "src"),
        "HF_HUB_OFFLINE": "1",
        **changes,
    }
    if "MLFLOW_TRACKING_URI" not in changes:
        env["MLFLOW_TRACKING_URI"] = NOBODY
        if (project / TRACKED).exists():
            del env["MLFLOW_TRACKING_URI"]
    return env


def dvc(project: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """`dvc ...` in `project`, to its end."""
    env = environment(project, **changes)
    return subprocess.run(
        [str(BIN / "dvc"), *arguments], cwd=project, env=env, text=True, capture_output=True, check=False
    )


def repro(project: Path, **environment: str) -> list[str]:
    """Run `dvc repro`; the stages that it ran."""
    done = dvc(project, "repro", **environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]


def metrics_of(project: Path, name: str) -> dict[str, Any]:
    return json.loads((project / "out" / name / "metrics.json").read_text("utf-8"))


def all_stages(project: Path) -> set[str]:
    """Every stage of dvc.yaml, those of each run by `stage@run`."""
    runs = read_yaml(project / "params.yaml")["runs"]
    stages = read_yaml(project / "dvc.yaml")["stages"].items()
    return {f"{name}@{run}" for name, stage in stages if "foreach" in stage for run in runs} | {
        name for name, stage in stages if "foreach" not in stage
    }
