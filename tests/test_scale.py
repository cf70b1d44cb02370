"""The jobs of docs/scale.md on one machine: local.sh, and submit.sh and runs.sbatch with an `sbatch` that runs at once.

The stages are the repository's own; their commands only make outputs, and note which of them ran.
"""

import os
import shutil
import signal
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from processes_of_tests import until, until_gone
from test_dvc_commands import cheap, git, write
from whole_pipeline import BIN, NOBODY, ROOT, all_stages, copy_project

from epsilon_dpo.pipeline.stage.params import read_yaml

pytestmark = pytest.mark.slow  # each job clones the project

# Every job has a node at once: tasks of an array run side by side, and a job has ended when its number is printed.
SBATCH = """#!/bin/bash
tasks=none
while [[ $1 == --* ]]; do
  [[ $1 == --array=0-* ]] && tasks=$(seq 0 "${1#--array=0-}")
  shift
done
export SLURM_SUBMIT_DIR=$PWD
pids=()
for task in $tasks; do
  SLURM_JOB_ID=$task SLURM_ARRAY_TASK_ID=$task bash "$@" </dev/null >&2 &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || exit 1; done
echo 7
"""

FAILING = '[ "$DVC_STAGE" != kl@tr_dpo ] || [ ! -e "$FAIL" ] && '  # where a test names a file
HANGING = '{ [ ! -e "$HANG" ] || { echo >"$HANG.$DVC_STAGE"; exec sleep 600; }; } && '


def environment(project: Path) -> dict[str, str]:
    return os.environ | {
        "PATH": f"{project.parent}:{BIN}:{os.environ['PATH']}",
        "RAN": str(project.parent / "ran"),
        "MLFLOW_TRACKING_URI": NOBODY,
    }


def run(project: Path, *command: str, **changes: str) -> subprocess.CompletedProcess[str]:
    environ = environment(project) | changes
    return subprocess.run(command, cwd=project, env=environ, text=True, capture_output=True, check=False)


def ran(project: Path) -> Counter[str]:
    """How often each stage ran since the last call."""
    file = project.parent / "ran"
    found = Counter(file.read_text("utf-8").split()) if file.exists() else Counter()
    file.unlink(missing_ok=True)
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Committed, with data of the user's own that git does not carry, and a remote whose path is relative."""
    project = copy_project(tmp_path_factory.mktemp("scale") / "project")
    shutil.copytree(ROOT / "launchers", project / "launchers")
    for name in (".gitignore", ".dvc/.gitignore"):
        (project / name).write_bytes((ROOT / name).read_bytes())
    content = read_yaml(project / "dvc.yaml")
    stages = {name: cheap(stage) for name, stage in content["stages"].items()}
    for stage in stages.values():
        entry = stage.get("do", stage)
        entry["cmd"] += ' && echo "$DVC_STAGE" >>"$RAN"'
    stages["align"]["do"]["deps"] = [dep for dep in stages["align"]["do"]["deps"] if not dep.startswith("out/scorer")]
    stages["kl"]["do"]["cmd"] = FAILING + HANGING + stages["kl"]["do"]["cmd"]
    stages["fetch"]["cmd"] += " && cat data/mine/pairs.jsonl >out/fetch/file"
    write(project / "dvc.yaml", content | {"stages": stages})
    params = read_yaml(project / "params.yaml")
    write(project / "params.yaml", params | {"runs": {name: params["runs"][name] for name in ("dpo", "tr_dpo")}})
    (project / "data/mine").mkdir()
    (project / "data/mine/pairs.jsonl").write_text('{"prompt": "Which metal?"}\n', "utf-8")
    git(project, "add", ".")
    git(project, "commit", "-qm", "what the jobs run")
    sbatch = project.parent / "sbatch"
    sbatch.write_text(SBATCH, "utf-8")
    sbatch.chmod(0o755)
    return project


@pytest.mark.campaign
def test_jobs_without_a_remote_are_refused(project: Path) -> None:
    refused = run(project, "launchers/slurm/submit.sh")
    assert refused.returncode == 1 and "dvc remote add -d store" in refused.stderr


@pytest.mark.campaign
def test_each_stage_runs_in_one_job_and_none_in_the_project(project: Path) -> None:
    assert run(project, "dvc", "remote", "add", "--local", "-d", "store", "../store").returncode == 0
    submitted = run(project, "launchers/slurm/submit.sh", "--gres=gpu:1")
    assert submitted.returncode == 0, submitted.stderr[-3000:]
    in_jobs = ran(project)
    stages = all_stages(project)
    assert in_jobs == Counter(stages) + Counter({"check": in_jobs["check"] - 1})
    done = run(project, "dvc", "repro", "--pull")
    assert done.returncode == 0, done.stderr[-3000:]
    assert ran(project) == Counter(["check"])
    assert (project / "out/fetch/file").read_text("utf-8") == '{"prompt": "Which metal?"}\n'
    alone = copy_of(project)
    assert run(alone, "dvc", "repro").returncode == 0
    assert ran(project).keys() == stages
    assert (project / "dvc.lock").read_bytes() == (alone / "dvc.lock").read_bytes()


def copy_of(project: Path, name: str = "alone") -> Path:
    """Without results, and without anything to take them from."""
    alone = project.parent / name
    git(project.parent, "clone", "-q", str(project), str(alone))
    shutil.copytree(project / "data/mine", alone / "data/mine")
    return alone


def test_groups_of_runs_on_this_machine_make_what_one_dvc_repro_makes(project: Path) -> None:
    """One group fails the first time; said again, with both runs in one group, no finished stage runs twice."""
    local = copy_of(project, "local")
    fail = project.parent / "fail"
    fail.touch()
    failed = run(local, "launchers/local.sh", "2", "1", FAIL=str(fail))
    assert failed.returncode == 1 and "group 1-1 failed: ERROR: failed to reproduce 'kl@tr_dpo'" in failed.stderr
    assert not (local / "dvc.lock").exists()
    done = run(local, "launchers/local.sh", "1", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    found = ran(project)
    assert found == Counter(all_stages(project)) + Counter({"check": found["check"] - 1})
    assert run(local, "dvc", "status").stdout == "Data and pipelines are up to date.\n"
    shutil.rmtree(local / "scratch/groups")
    again = run(local, "launchers/local.sh")
    assert again.returncode == 0 and ran(project).keys() == {"check"}, again.stderr[-3000:]
    alone = copy_of(project, "in_one")
    assert run(alone, "dvc", "repro").returncode == 0
    assert read_yaml(local / "dvc.lock") == read_yaml(alone / "dvc.lock")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["kill", "Ctrl-C"])
def test_a_signal_to_the_groups_program_alone_ends_the_groups(project: Path, number: signal.Signals) -> None:
    local = copy_of(project, number.name)
    hang = project.parent / f"hang {number.name}"
    hang.touch()
    environ = environment(project) | {"HANG": str(hang)}
    command = ["env", "--default-signal=INT", "launchers/local.sh", "2", "1"]  # a background job's children ignore it
    with subprocess.Popen(command, cwd=local, env=environ, start_new_session=True) as program:
        until(lambda: all(hang.with_name(f"{hang.name}.kl@{run}").exists() for run in ("dpo", "tr_dpo")), 300)
        groups = psutil.Process(program.pid).children(recursive=True)
        assert [process.name() for process in groups].count("sleep") == 2
        program.send_signal(number)
        try:
            until_gone(*(process.pid for process in groups), within_s=30)
        finally:
            for process in (*groups, program):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
    assert program.returncode == 128 + number
    ran(project)


@pytest.mark.campaign
def test_what_is_not_committed_is_not_submitted(project: Path) -> None:
    with (project / "params.yaml").open("a", encoding="utf-8") as file:
        file.write("# an edit\n")
    refused = run(project, "launchers/slurm/submit.sh")
    assert refused.returncode == 1 and "commit what `git status` names" in refused.stderr
