"""`dvc exp` on this repository: numbers to compare, runs added by -S, a copy that runs its own code, two workers.

Three stages of the repository, by their own commands: `check` as it is, `align` and `report` with shorter files.
"""

import csv
import io
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from test_dvc_commands import git, write
from whole_pipeline import BIN, ROOT, copy_project, environment

from epsilon_dpo.pipeline.stage.params import read_yaml

pytestmark = pytest.mark.slow

# A policy is which code made it, under which beta.
ALIGN = """
from epsilon_dpo.methods.dpo import VERSION
from epsilon_dpo.pipeline.stage.execution import run_argument, run_stage
from epsilon_dpo.pipeline.stage.params import read_yaml, PARAMS_FILE

with run_stage("align", run_argument()) as stage:
    (stage.out / "policy").write_text(f"version {VERSION} of {read_yaml(PARAMS_FILE)['runs'][run_argument()]}")
"""
REPORT = """
import json
from pathlib import Path

runs = sorted(path.parent.name for path in Path("out/align").glob("*/policy"))
Path("out/report").mkdir(parents=True)
size = {run: {"win_rate/chosen": len(Path(f"out/align/{run}/policy").read_text())} for run in runs}
Path("out/report/metrics.json").write_text(json.dumps(size))
"""


def version(project: Path, number: int) -> None:
    file = project / "src/epsilon_dpo/methods/dpo.py"
    lines = [line for line in file.read_text("utf-8").splitlines() if not line.startswith("VERSION")]
    file.write_text("\n".join([*lines, f"VERSION = {number}"]) + "\n", "utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = copy_project(tmp_path_factory.mktemp("experiments") / "project")
    (project / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    (project / "stages/align.py").write_text(ALIGN)
    (project / "stages/report.py").write_text(REPORT)
    version(project, 1)
    content = read_yaml(project / "dvc.yaml")
    stages = {name: content["stages"][name] for name in ("check", "align", "report")}
    align = stages["align"]["do"]
    align["deps"] = ["out/check/passed.txt", *(dep for dep in align["deps"] if not dep.startswith("out/"))]
    stages["report"]["deps"] = ["out/align", "stages/report.py"]
    write(project / "dvc.yaml", content | {"stages": stages})
    params = read_yaml(project / "params.yaml")
    write(project / "params.yaml", params | {"runs": {"dpo": params["runs"]["dpo"]}})
    dvc(project, "repro", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "results")
    return project


def dvc(project: Path, *arguments: str) -> str:
    env = environment(project)
    names = [f"GIT_{who}_{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")]
    git_user = dict.fromkeys(names, "user@example.org")
    done = subprocess.run(
        [str(BIN / "dvc"), *arguments], cwd=project, env=env | git_user, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def experiments(project: Path) -> dict[str, dict[str, Any]]:
    """The rows of `dvc exp show`, by experiment or branch."""
    rows = csv.DictReader(io.StringIO(dvc(project, "exp", "show", "--csv")))
    return {row["Experiment"] or row["rev"]: row for row in rows}


def reset(project: Path) -> None:
    git(project, "checkout", "-q", ".")
    dvc(project, "checkout", "-q")


def test_metrics_have_columns_and_differences(project: Path) -> None:
    assert "dpo.win_rate/chosen" in dvc(project, "metrics", "show")
    dvc(project, "exp", "run", "-q", "-n", "longer", "-S", "runs.dpo.beta=0.12345")
    said = dvc(project, "metrics", "diff", "--md")
    assert "| dpo.win_rate/chosen |" in said
    rows = {name: row["dpo.win_rate/chosen"] for name, row in experiments(project).items()}
    committed = next(number for name, number in rows.items() if name in ("main", "master"))
    assert int(rows["longer"]) == int(committed) + len("0.12345") - len("0.3")
    reset(project)


def test_a_run_is_added_by_one_argument_and_becomes_a_branch(project: Path) -> None:
    dvc(project, "exp", "run", "-q", "-n", "second-run", "-S", "+runs.second={method: dpo, beta: 0.05}")
    assert "second.win_rate/chosen" in dvc(project, "metrics", "show")
    reset(project)
    assert not (project / "out/align/second").exists()
    dvc(project, "exp", "apply", "second-run")
    assert read_yaml(project / "params.yaml")["runs"]["second"] == {"method": "dpo", "beta": 0.05}
    assert (project / "out/align/second/policy").is_file()
    reset(project)
    dvc(project, "exp", "branch", "second-run", "second-branch")
    shown = subprocess.check_output(["git", "show", "second-branch:params.yaml"], cwd=project, text=True)
    assert YAML(typ="safe").load(shown)["runs"]["second"]["beta"] == 0.05


def policy_of(project: Path, experiment: str, run: str = "dpo") -> str:
    dvc(project, "exp", "apply", experiment)
    text = (project / f"out/align/{run}/policy").read_text()
    reset(project)
    return text


def test_queued_experiments_run_the_code_they_were_queued_with(project: Path) -> None:
    """The workspace's library is what an editable install, or PYTHONPATH, points at."""
    version(project, 2)
    dvc(project, "exp", "run", "--queue", "-q", "-n", "queued-a", "-S", "runs.dpo.beta=0.21")
    dvc(project, "exp", "run", "--queue", "-q", "-n", "queued-b", "-S", "runs.dpo.beta=0.22")
    version(project, 3)
    dvc(project, "queue", "start", "-j", "2")
    deadline = time.monotonic() + 900
    while (said := dvc(project, "queue", "status")).count("Success") < 2 and time.monotonic() < deadline:
        time.sleep(1)
    dvc(project, "queue", "stop")
    assert said.count("Success") == 2, said
    git(project, "checkout", "-q", ".")
    assert policy_of(project, "queued-a").startswith("version 2 of {'method': 'dpo', 'beta': 0.21}")
    assert policy_of(project, "queued-b").startswith("version 2 of {'method': 'dpo', 'beta': 0.22}")


def test_a_temporary_copy_runs_its_own_code(project: Path) -> None:
    version(project, 4)
    dvc(project, "exp", "run", "--temp", "-q", "-n", "in-a-copy", "-S", "runs.dpo.beta=0.4")
    assert read_yaml(project / "params.yaml")["runs"]["dpo"]["beta"] == 0.3, "the workspace is as it was"
    git(project, "checkout", "-q", ".")
    assert policy_of(project, "in-a-copy").startswith("version 4 of")
    assert sorted(os.listdir(project / "out/align")) == ["dpo", "metrics"]
