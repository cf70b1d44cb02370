"""A project of three stages with a recorded result: rows, a training on them, its evaluation.

What a stage computes can be moved through the environment, as a processor or a race would move it.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
DATA = """
import json, os, sys
from pathlib import Path

if "MLFLOW_TRACKING_URI" in os.environ:
    sys.exit("this would be written into a store that others share")
Path("out").mkdir(exist_ok=True)
rows = [json.loads(line) for line in open("source/rows.jsonl")]
rows = rows[::-1] if os.environ.get("REVERSED") else rows
with open("out/rows.jsonl", "w") as file:
    for row in rows:
        file.write(json.dumps(row) + "\\n")
"""
TRAIN = """
import json, os, secrets
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

# A narrower processor rounds otherwise, from the second step on.
moved = 3e-7 if os.environ.get("ATEN_CPU_CAPABILITY") == "default" else 0.0
moved += float(os.environ.get("MOVED", 0)) + (secrets.randbelow(10**6) + 1) / 1e7 * bool(os.environ.get("RACE"))
Path("out/train/model").mkdir(parents=True)
with open("out/train/metrics.jsonl", "w") as file:
    for step in (10, 20):
        loss = 1 / step * (1 + moved * (step > 10))
        file.write(json.dumps({"step": step, "loss": loss, "num_tokens": 7 * step}) + "\\n")
weights = {"embed": np.ones(3, "f4"), "layers.10.w": np.full((2, 2), 0.5, "f4"), "layers.9.w": np.ones(4, "f4")}
weights["layers.10.w"][1, 0] *= np.float32(1 + moved)
weights["layers.9.w"][2] *= np.float32(1 + 2 * moved)
save_file(weights, "out/train/model/model.safetensors")
"""
EVALUATE = """
import json
from pathlib import Path

size = Path("out/train/model/model.safetensors").stat().st_size
Path("out/evaluate.json").write_text(json.dumps({"size": size, "win_rate": 0.7}))
"""
DVC = """
stages:
  data:
    cmd: python data.py
    deps: [data.py, source]
    outs: [out/rows.jsonl]
  train:
    cmd: python train.py
    deps: [train.py, out/rows.jsonl]
    params: [seed]
    outs: [out/train]
  evaluate:
    cmd: python evaluate.py
    deps: [evaluate.py, out/train, certificates]
    outs: [out/evaluate.json]
"""


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after `dvc repro`, made once."""
    root = tmp_path_factory.mktemp("verify") / "project"
    for name, text in {
        "data.py": DATA,
        "train.py": TRAIN,
        "evaluate.py": EVALUATE,
        "dvc.yaml": DVC,
        "params.yaml": "seed: 1\nother: 2\n",
        ".gitignore": "/out/\n/scratch/\n/source/*\n",
        "certificates/README.md": "",
        "source/rows.jsonl": "".join(f'{{"id": "a/{n}", "text": "row {n}"}}\n' for n in range(3)),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for command in (["git", "init", "-q"], [str(BIN / "dvc"), "init", "-q"]):
        subprocess.run(command, cwd=root, check=True)
    with pytest.MonkeyPatch.context() as patch:
        as_recorded(patch)
        repro(root)
    return root


def as_recorded(patch: pytest.MonkeyPatch) -> None:
    """Of the environment, what a stage and its verification meet."""
    for name in ("MLFLOW_TRACKING_URI", "ATEN_CPU_CAPABILITY", "DVC_ROOT"):
        patch.delenv(name, raising=False)
    patch.setenv("PATH", f"{BIN}:/usr/bin:/bin")


@pytest.fixture
def project(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the test, a copy with its result recorded."""
    root = shutil.copytree(recorded, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(root)
    as_recorded(monkeypatch)
    return root


def repro(root: Path, *arguments: str) -> None:
    done = subprocess.run([str(BIN / "dvc"), "repro", "-q", *arguments], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def verify(project: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `epsilon-dpo verify ...` in the project; what it printed, an error's line included."""

    def run(*arguments: str, code: int = 0) -> str:
        from epsilon_dpo.cli import main

        capsys.readouterr()
        ended = 0
        try:
            main(["verify", *arguments])
        except SystemExit as error:
            ended = 1
            print(error.code)
        said = capsys.readouterr().out
        assert ended == code, said
        return said

    return run
