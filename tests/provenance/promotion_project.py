"""A project of cheap stages with real DVC and MLflow: three policies, of which `better` beats the others."""

import subprocess
from pathlib import Path
from typing import Any

from dvc.cli import main as dvc_main
from ruamel.yaml import YAML

from epsilon_dpo.pipeline.stage.fingerprint import digest

SOURCE = Path(__file__).resolve().parents[3] / "src"
MAKE = """
import json, sys
from itertools import combinations
from pathlib import Path
sys.path.insert(0, %r)
from epsilon_dpo.pipeline.stage.fingerprint import declared_params, digest, stage_entry
from epsilon_dpo.pipeline.stage.manifest import write_manifest

stage, _, run = sys.argv[1].partition("@")
params = declared_params(stage_entry(stage, run or None))
out = Path("out") / stage / run
out.mkdir(parents=True)
if stage == "align":
    model = out / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(str(params["runs." + run]).encode() * 300)
    (model / "config.json").write_text("{}")
    write_manifest(model, sys.argv[1], params)
if stage == "score":
    scored = {"policy_sha256": digest(Path("out/align") / run / "model"), "strength": params["runs." + run]["strength"]}
    (out / "metrics.json").write_text(json.dumps(scored))
if stage == "report":
    scores = {run: json.loads(Path("out/score", run, "metrics.json").read_text()) for run in params["runs"]}
    runs, rows = {}, []
    for name, score in scores.items():
        rates = {"true_win_rate/sft" + end: score["strength"] + by
                 for end, by in {"_low": -0.04, "": 0.0, "_high": 0.04}.items()}
        config = params["runs"][name]
        runs[name] = {"policy_sha256": score["policy_sha256"], "n": 100, "config": config, **rates}
    for first, second in combinations(scores, 2):
        by = scores[first]["strength"] - scores[second]["strength"]
        outcome = "better" if by > 0.04 else "worse" if by < -0.04 else "cannot be told apart"
        rows.append({"first": first, "second": second, "opponent": "chosen", "scorer": "true reward",
            "difference": by, "low_together": by - 0.04, "high_together": by + 0.04, "p_holm": 0.5, "n": 100,
            "outcome": outcome})
    content = {"true_reward": True, "confidence": 0.95, "runs": runs, "comparisons": rows,
        "data_sha256": {"eval.jsonl": "e" * 64}, "judge": {"source": "trained", "origin": "trained on 10 pairs"},
        "dataset": {"source": "synthetic", "rows": {"eval": 100}}, "statements": ["No two can be told apart."]}
    (out / "summary.json").write_text(json.dumps(content))
"""
STAGES: dict[str, Any] = {
    "align": {"foreach": "${runs}", "do": {"params": ["runs.${key}"], "outs": ["out/align/${key}"]}},
    "score": {
        "foreach": "${runs}",
        "do": {"deps": ["out/align/${key}"], "params": ["runs.${key}"], "outs": ["out/score/${key}"]},
    },
    "report": {"deps": ["out/score"], "params": ["runs"], "outs": ["out/report"]},
}
STRENGTHS = {"plain": 0.6, "alike": 0.62, "better": 0.7, "hopeless": 0.45}


def write_yaml(path: str, content: Any) -> None:
    with Path(path).open("w", encoding="utf-8") as file:
        YAML().dump(content, file)


def dvc(*arguments: str) -> None:
    """`dvc ...` in the working folder and in this process."""
    assert dvc_main([*arguments]) == 0, f"dvc {' '.join(arguments)}"


def git(*arguments: str) -> str:
    who = ("-c", "user.name=A User", "-c", "user.email=user@example.org")
    return subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True).stdout


def set_runs(**strengths: float) -> None:
    write_yaml("params.yaml", {"runs": {run: {"method": "dpo", "strength": x} for run, x in strengths.items()}})


def record_trainings() -> None:
    """A finished row of each training, in the store that the environment names."""
    from epsilon_dpo.mlflow_writer.record import Record  # imports mlflow

    for run in STRENGTHS:
        row = Record(f"align@{run}", "f" * 64, {f"runs.{run}": {"method": "dpo"}}, {"out/pairs": "d" * 64}, 1000)
        row.tags({"policy_sha256": digest(Path(f"out/align/{run}/model"))})
        row.close("FINISHED")


def store_of(project: Path) -> str:
    """The address of a store of its own for MLFLOW_TRACKING_URI: by a name that no other test of this process used,
    since MLflow keeps the databases that it has opened by their addresses, which are relative."""
    return f"sqlite:///mlruns_{project.parent.name}/mlflow.db"
