"""`dvc repro external/dvc.yaml` as a user runs it: a small policy, all three benchmarks, one page."""

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import WRITERS
from benchmark_server import KEY, Judge
from ruamel.yaml import YAML
from test_external_judges import SETTINGS
from test_external_tools import ENVIRONMENTS

from epsilon_dpo.pipeline.observability.tracker import Tracker
from epsilon_dpo.pipeline.stage.files import read_json, write_json
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.params import read_yaml

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# Of the environments of test_external_tools.py, those that are there; Arena-Hard's script has its stand-in.
REAL = [name for name in ("alpaca_eval", "mt_bench") if (ENVIRONMENTS / name).is_dir()]


@pytest.fixture
def project(tmp_path: Path, sft_folder: Callable[[], Path], judge: Judge) -> Path:
    """A repository whose root makes the policy `dpo` by copying it, and whose external/ is this project's."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "src", project / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    ignored = shutil.ignore_patterns("__pycache__", "out", "verdicts", "environments", "data")
    shutil.copytree(ROOT / "external", project / "external", ignore=ignored)
    shutil.copy(ROOT / "pins.yaml", project)
    policy, places = sft_folder(), {"base": "out/base/model", "sft": "out/sft/model", "align": "out/align/dpo/model"}
    stages = {
        name: {
            "cmd": f"mkdir -p {Path(place).parent} && cp -r {policy} {place}",
            "outs": [place.removesuffix("/model")],
        }
        for name, place in places.items()
    }
    YAML().dump({"stages": stages}, project / "dvc.yaml")
    (project / ".gitignore").write_text("/out/\n/mlruns/\n/scratch/\n")
    external = project / "external"
    (external / "environments").mkdir()
    for benchmark, write in WRITERS.items():
        (external / "data" / benchmark).mkdir(parents=True)
        write(external / "data" / benchmark)
        if benchmark in REAL:
            (external / "environments" / benchmark).symlink_to(ENVIRONMENTS / benchmark)
    arena_hard = external / "environments" / "arena_hard"
    (arena_hard / "bin").mkdir(parents=True)
    (arena_hard / "bin" / "python").symlink_to(sys.executable)
    checkout = arena_hard / "arena-hard-auto"
    (checkout / "config").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("arena_hard_stub.py"), checkout / "gen_judgment.py")
    write_json(checkout / "config" / "arena-hard-v0.1.yaml", SETTINGS["current"])
    config = read_yaml(external / "params.yaml")
    for benchmark in WRITERS:
        config["decoding"][benchmark] |= {"max_new_tokens": 8}
        config["judge"][benchmark]["base_url"] = judge.url
    names = ["arena_hard", *REAL]
    config["runs"] = {f"dpo_{name}": {"policy": "align/dpo", "benchmark": name} for name in names}
    config["scoreboard"] = {"all": {"runs": [f"dpo_{name}" for name in names]}}
    YAML().dump(config, external / "params.yaml")
    subprocess.run(["git", "init", "-q", "."], cwd=project, check=True)
    subprocess.run([BIN / "dvc", "init", "-q"], cwd=project, check=True)
    return project


def repro(project: Path, **changes: str) -> list[str]:
    """The external stages that ran, with `changes` of the environment."""
    env = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(project / "src"),
        "OPENAI_API_KEY": KEY,
    }
    env.pop("MLFLOW_TRACKING_URI", None)
    command = [BIN / "dvc", "repro", "external/dvc.yaml"]
    done = subprocess.run(command, cwd=project, env=env | changes, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    ran = [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]
    return [stage.removeprefix("external/dvc.yaml:") for stage in ran if stage.startswith("external/")]


def change(project: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    config = read_yaml(project / "external" / "params.yaml")
    edit(config)
    YAML().dump(config, project / "external" / "params.yaml")


def test_answers_to_scoreboard(project: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(project / "src"))
    subprocess.run([BIN / "dvc", "repro", "-q"], check=True)
    with Tracker("align@dpo", "the policy's own row", {}, {}) as row:
        row.set_tags({"policy_sha256": digest(Path("out/align/dpo/model"))})
    runs = [f"dpo_{name}" for name in ("arena_hard", *REAL)]
    ran = repro(project)
    assert sorted(ran) == sorted(
        [f"{stage}@{run}" for stage in ("answers", "export", "verdicts") for run in runs] + ["scoreboard@all"]
    )
    out = project / "external" / "out"
    page = (out / "scoreboard" / "all" / "scoreboard.html").read_text("utf-8")
    with (out / "scoreboard" / "all" / "scores.csv").open(newline="") as file:
        scores = {(row["run"], row["score"]): float(row["value"]) for row in csv.DictReader(file)}
    for run in runs:
        verdict = read_json(out / "verdicts" / run / "metrics.json")
        headline = next(name for name in ("lc_win_rate", "win_rate", "score") if name in verdict)
        assert scores[run, headline] == verdict[headline] and f"<td>{run}</td>" in page
        assert f"{verdict[headline]:.2f} ± " in page
        assert verdict["n_missing"] == 0 and len(verdict["policy_sha256"]) == 64
    assert "they are on 500 questions" in page and "their judge is" not in page

    first = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    asked = len(judge.asked)
    assert repro(project) == []

    change(project, lambda config: config["judge"]["arena_hard"].update(parallel=2))
    away = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    assert repro(project, **away) == ["verdicts@dpo_arena_hard"]  # the same verdicts, so the page stays
    (waits,) = (project / "mlruns" / "pending").glob("*.jsonl")
    on_its_row = {"kind": "policy_metrics", "run": "dpo"}.items()
    (kept,) = [message for line in waits.open() if on_its_row <= (message := json.loads(line)).items()]
    assert kept["metrics"]["arena_hard/win_rate"] == scores["dpo_arena_hard", "win_rate"]
    shutil.rmtree(out)
    (project / "external" / "dvc.lock").unlink()
    shutil.rmtree(project / ".dvc" / "cache")
    shutil.rmtree(project / "out")
    assert sorted(repro(project)) == sorted(ran)
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == first
    assert len(judge.asked) == asked, "verdicts are kept by content and not asked for twice"

    change(project, lambda config: config["judge"]["arena_hard"].update(model="gpt-4"))
    assert repro(project) == ["verdicts@dpo_arena_hard", "scoreboard@all"]
    assert "their judge is gpt-4-1106-preview" in (out / "scoreboard" / "all" / "scoreboard.html").read_text("utf-8")
    with sqlite3.connect(project / "mlruns" / "mlflow.db") as store:
        names = {name for (name,) in store.execute("select name from runs where status = 'FINISHED'")}
        on_policy = store.execute(
            "select value from latest_metrics m join runs r on m.run_uuid = r.run_uuid "
            "where r.name = 'align@dpo' and m.key = 'arena_hard/win_rate'"
        ).fetchall()
    assert {f"verdicts@{run}" for run in runs} < names and "scoreboard@all" in names
    assert on_policy == [(scores["dpo_arena_hard", "win_rate"],)]

    out_of_reach = {"base_url": "http://127.0.0.1:9/v1", "model": "another"}  # whose verdicts are not kept
    change(project, lambda config: config["judge"]["arena_hard"].update(out_of_reach))
    with pytest.raises(
        AssertionError, match=r"ERROR in stage verdicts@dpo_arena_hard: The judge at http://127.0.0.1:9"
    ):
        repro(project)
    assert (out / "export" / "dpo_arena_hard" / "model_answer" / "dpo_arena_hard.jsonl").exists()
    assert not (out / "verdicts" / "dpo_arena_hard").exists()
