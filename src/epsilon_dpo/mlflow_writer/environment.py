"""Where a run was computed: commit, machine, versions. It is recorded in MLflow and in nothing that DVC hashes."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "datasets", "dvc", "mlflow")


def environment(root: Path) -> dict[str, str]:
    """As tags. Versions are read from the packages' metadata, which imports nothing."""
    tags = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
    }
    for library in LIBRARIES:
        tags[library] = importlib.metadata.version(library)
    commit = _output(["git", "-C", str(root), "rev-parse", "HEAD"])
    if commit:
        changed = bool(_output(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"]))
        tags |= {"mlflow.source.git.commit": commit, "git.uncommitted_changes": str(changed).lower()}
    if shutil.which("nvidia-smi"):
        tags["gpu"] = _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).replace("\n", ", ")
    return tags


def _output(command: list[str]) -> str:
    """What `command` prints, or nothing where it fails."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # `git status` must not write the index of somebody's commit
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
