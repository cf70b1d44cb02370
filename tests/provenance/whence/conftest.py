"""A project of four cheap stages with real DVC: two commits of results, an experiment, and copies of their policies."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from asking import dvc, git, write_yaml

SOURCE = Path(__file__).resolve().parents[3] / "src"
MAKE = """
import json, shutil, sys
from pathlib import Path
sys.path.insert(0, %r)
from epsilon_dpo.pipeline.stage.fingerprint import declared_params, stage_entry
from epsilon_dpo.pipeline.stage.manifest import write_manifest

stage, _, run = sys.argv[1].partition("@")
params = declared_params(stage_entry(stage, run or None))
out = Path("out") / stage / run
out.mkdir(parents=True)
model = out / "model"
if stage == "fetch":
    shutil.copy("data/rows.jsonl", out / "train.jsonl")
    (out / "dataset.json").write_text(json.dumps({"source": "dataset", "files": {"rows.jsonl": "ab12"}}))
    (out / "rejected.jsonl").touch()
if stage == "base":
    (out / "tokenizer").mkdir()
    (out / "tokenizer" / "tokenizer.json").write_text("a tokenizer")
    model.mkdir()
    (model / "model.safetensors").write_bytes(bytes(range(256)) * 5000)  # large: remembered in scratch/
    write_manifest(model, "base", params)
if stage == "align":
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"trained" + str(params["runs." + run]).encode() * 300)
    shutil.copy("out/base/tokenizer/tokenizer.json", model)
    read, start = [Path("out/fetch/train.jsonl")], Path("out/base/model")
    write_manifest(model, sys.argv[1], params, read=read, dataset=Path("out/fetch/dataset.json"), start=start)
    metrics = Path("out/align/metrics") / run
    metrics.mkdir(parents=True)
    (metrics / "warnings.txt").touch()
    (metrics / "metrics.json").write_text(json.dumps(params))
if stage == "figures":
    (out / "images").mkdir()
    texts = [path.read_text() for path in sorted(Path("out/align/metrics").glob("*/metrics.json"))]
    (out / "images" / "pareto.png").write_text("a figure of " + "".join(texts))
"""
STAGES: dict[str, Any] = {
    "fetch": {"deps": ["data"], "params": ["fetch"], "outs": ["out/fetch"]},
    "base": {"deps": ["out/fetch"], "params": ["seed", "base"], "outs": ["out/base/tokenizer", "out/base/model"]},
    "align": {
        "foreach": "${runs}",
        "do": {
            "deps": ["out/base", "out/fetch", "src"],
            "params": ["seed", "align", "runs.${key}", {"pins.yaml": ["torch"]}],
            "outs": ["out/align/${key}", "out/align/metrics/${key}"],
        },
    },
    "figures": {"deps": ["out/align/metrics", "out/fetch"], "params": ["runs"], "outs": ["out/figures"]},
}
PARAMS = {
    "seed": 17,
    "fetch": {"source": "dataset", "path": "data/rows.jsonl", "revision": None},
    "base": {"source": "pretrained", "path": "google/gemma-2-2b", "revision": "c" * 40},
    "align": {"learning_rate": 0.001, "save_steps": 50},
    "runs": {"dpo": {"method": "dpo", "beta": 0.3}, "ipo": {"method": "ipo", "beta": 0.1}},
}


def set_beta(beta: float) -> None:
    runs = {**PARAMS["runs"], "dpo": {"method": "dpo", "beta": beta}}  # type: ignore[dict-item]
    write_yaml(Path("params.yaml"), PARAMS | {"runs": runs})


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, at its second commit, with dvc.lock as committed; beside it `kept`/NAME/model of each state."""
    project = tmp_path_factory.mktemp("whence") / "project"
    kept = project.parent / "kept"
    for folder in ("data", "src"):
        (project / folder).mkdir(parents=True)
    (project / "src" / "code.py").write_text("x = 1\n")
    (project / "make.py").write_text(MAKE % str(SOURCE))
    (project / "data" / "rows.jsonl").write_text(json.dumps({"prompt": "Tea?"}) + "\n")
    stages = json.loads(json.dumps(STAGES))
    for name, stage in stages.items():
        stage.get("do", stage)["cmd"] = f"{sys.executable} make.py {name}" + ("@${key}" if "do" in stage else "")
    write_yaml(project / "dvc.yaml", {"stages": stages})
    (project / "pins.yaml").write_text('torch: "2.13.0"\nscipy: "1.17.1"\n')
    (project / ".gitignore").write_text("/out\n/scratch\n/mlruns\n")
    (project / ".dvcignore").write_text("*.tmp\n/mlruns\n/scratch\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        git(project, "init", "-q", ".")
        dvc("init", "-q")
        for name, beta in (("first", 0.3), ("second", 0.5)):
            set_beta(beta)
            dvc("repro", "-q")
            shutil.copytree("out/align/dpo", kept / name)
            git(project, "add", ".")
            git(project, "commit", "-qm", f"the {name} results")
        dvc("exp", "run", "-q", "-n", "stronger", "-S", "runs.dpo.beta=0.9")
        shutil.copytree("out/align/dpo", kept / "experiment")
        git(project, "checkout", "-q", ".")
        dvc("checkout", "-q")
    return project


@pytest.fixture
def project(results: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As `results`, and the working folder; it is for reading."""
    monkeypatch.chdir(results)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return results
