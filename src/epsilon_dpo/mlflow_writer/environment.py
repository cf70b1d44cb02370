"""Where a run was computed: commit, machine, versions. It is recorded in MLflow and in nothing that DVC hashes."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from epsilon_dpo.pipeline.stage.variables import PROCESSOR

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "datasets", "dvc", "mlflow")
# How this processor rounds: its name, its vector instructions, and the variables that keep libraries from using them.
ROUNDING = ("processor", "processor.features", "processor.variables")
CODE = ("src", "stages", "external", "dvc.yaml")  # where a file that git does not know of may decide what is computed
LOCKS = ("dvc.lock", "external/dvc.lock")  # which a reproduction itself writes
VECTORS = ("avx", "fma", "amx", "asimd", "sve")  # the beginnings of their names in /proc/cpuinfo, x86's and ARM's


def environment(place: Path) -> dict[str, str]:
    """As tags. Versions are read from the packages' metadata, which imports nothing.

    Args:
        place: the folder that the stage runs in: the project, an experiment's copy of it, or its external/.
    """
    tags = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        **_rounding(),
    }
    for library in LIBRARIES:
        tags[library] = "not installed"  # here: `dvc` may be a program of its own
        with suppress(importlib.metadata.PackageNotFoundError):
            tags[library] = importlib.metadata.version(library)
    place = next((folder for folder in (place, *place.parents) if (folder / ".dvc").is_dir()), place)
    commit = output_of(["git", "-C", str(place), "rev-parse", "HEAD"])
    if commit:
        changed = uncommitted(place)
        known = "unknown" if changed is None else str(changed).lower()
        tags |= {"mlflow.source.git.commit": commit, "git.uncommitted_changes": known}
    if gpus := output_of(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]):  # nothing, where it finds none
        tags["gpu"] = gpus.replace("\n", ", ")
    return tags


def _rounding() -> dict[str, str]:
    """ROUNDING's tags: sums are added up in another order, and so rounded otherwise, with other vector instructions."""
    facts: dict[str, str] = {}
    with suppress(OSError):  # of Linux
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip().lower(), value.strip())
    flags = facts.get("flags", facts.get("features", "")).split()
    if sys.platform == "darwin":
        facts["model name"] = output_of(["sysctl", "-n", "machdep.cpu.brand_string"])
    return {
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "processor.features": " ".join(sorted(flag for flag in flags if flag.startswith(VECTORS))) or "unknown",
        "processor.variables": " ".join(f"{name}={os.environ[name]}" for name in PROCESSOR if name in os.environ)
        or "none",
    }


def uncommitted(place: Path, *but: str) -> bool | None:
    """Whether the project in `place` has changes that no commit has, a new file of code among them; None: git fails.

    Args:
        but: files and folders of the project that do not count, beside LOCKS.
    """
    git, left_out = ["git", "-C", str(place)], [f":!{name}" for name in (*LOCKS, *but)]
    changed = said_by([*git, "status", "--porcelain", "--untracked-files=no", "--", ".", *left_out])
    new = said_by([*git, "ls-files", "--others", "--exclude-standard", "--", *CODE, *left_out])
    return None if changed is None or new is None else bool(changed or new)


def output_of(command: list[str]) -> str:
    """What `command` prints, or nothing where it fails."""
    return said_by(command) or ""


def said_by(command: list[str]) -> str | None:
    """What `command` prints; None where it fails or takes longer than 5 s, as `git status` on a slow drive may."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # `git status` must not write the index of somebody's commit
    try:
        done = subprocess.run(  # a file's name may be of another encoding than the terminal's
            command, capture_output=True, text=True, errors="replace", timeout=5, check=False, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
