"""The repository's own pipeline with commands that take no time, reproduced and committed: what plans are made for.

The stages have the dependencies, params and outputs of dvc.yaml. An output holds its path and the md5 of params.yaml,
so that it changes whenever its stage runs after another edit of it; what dvc.yaml calls constant is always the same.
"""

import subprocess
from pathlib import Path
from typing import Any

from dvc.cli import main as dvc_main
from ruamel.yaml import YAML
from whole_pipeline import ROOT, copy_project

from epsilon_dpo.pipeline.stage.params import read_yaml

INSIDE = {"out/scorer": ("dpo/file", "epsilon_dpo/file")}  # of which a run needs the folder of its method


def write(path: Path, content: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(content, file)


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=A User", "-c", "user.email=user@example.org")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def dvc(*arguments: str) -> None:
    """`dvc ...` in the working folder and in this process, which saves a second each time."""
    assert dvc_main([*arguments]) == 0, f"dvc {' '.join(arguments)}"


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file, git's and DVC's own included."""
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def quick(stage: dict[str, Any]) -> dict[str, Any]:
    entry = stage.get("do", stage)
    outs = [out if isinstance(out, str) else next(iter(out)) for out in entry["outs"]]
    made = "echo constant" if "meta" in entry else f"(md5sum < params.yaml && echo {' '.join(outs)})"
    files = [out if Path(out).suffix else f"{out}/{name}" for out in outs for name in INSIDE.get(out, ("file",))]
    cmd = " && ".join(f"mkdir -p {Path(file).parent} && {made} > {file}" for file in files)
    return stage | {"do": entry | {"cmd": cmd}} if "do" in stage else entry | {"cmd": cmd}


def small_project(to: Path) -> Path:
    """Two runs, dpo and epsilon_dpo; the working folder has to be `to` for `dvc`."""
    copy_project(to)
    for name in (".gitignore", ".dvc/.gitignore"):
        (to / name).write_bytes((ROOT / name).read_bytes())
    content = read_yaml(to / "dvc.yaml")
    write(to / "dvc.yaml", content | {"stages": {name: quick(stage) for name, stage in content["stages"].items()}})
    params = read_yaml(to / "params.yaml")
    write(to / "params.yaml", params | {"runs": {name: params["runs"][name] for name in ("dpo", "epsilon_dpo")}})
    git(to, "add", ".")
    git(to, "commit", "-qm", "code")
    return to
