"""Asking `epsilon-dpo whence` and making files to ask about."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dvc.cli import main as dvc_main
from ruamel.yaml import YAML

from epsilon_dpo.cli import main

POLICY = "out/align/dpo/model/model.safetensors"


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=A User", "-c", "user.email=user@example.org")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


def dvc(*arguments: str) -> None:
    """`dvc ...` in the working folder and in this process."""
    assert dvc_main([*arguments]) == 0, f"dvc {' '.join(arguments)}"


def write_yaml(path: Path, content: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(content, file)


def whence(capsys: pytest.CaptureFixture[str], path: Path | str, code: int = 0) -> dict[str, Any]:
    """The JSON that the command prints, which ends with this exit code."""
    capsys.readouterr()
    if code:
        with pytest.raises(SystemExit) as end:
            main(["whence", str(path), "--json"])
        assert end.value.code == code
    else:
        main(["whence", str(path), "--json"])
    return json.loads(capsys.readouterr().out)


def copied(path: str | Path, to: Path) -> Path:
    shutil.copyfile(path, to)
    return to


def altered(path: str | Path, to: Path, byte: int) -> Path:
    content = bytearray(Path(path).read_bytes())
    content[byte] ^= 1
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(content)
    return to


def subjects(found: dict[str, Any]) -> list[str]:
    """Where it is recorded: the workspace, and the commits by what they say."""
    return ["workspace" if "workspace" in place else place["subject"] for place in found["recorded_by"]]
