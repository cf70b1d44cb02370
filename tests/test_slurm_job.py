"""A job of launchers/slurm/runs.sbatch, without Slurm: which commit it runs, and how it goes back into the queue.

And two of one job at once.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from processes_of_tests import until
from test_dvc_commands import git
from whole_pipeline import NOBODY, ROOT

DVC = "#!/bin/sh\n[ $2 != list ] || echo 'store /a/store (default)'\n"
SCONTROL = '#!/bin/sh\necho "$@" >"$SLURM_SUBMIT_DIR/asked"\n'
GIT = """#!/bin/sh
if [ $1 = clone ]; then
  echo $$ >>"$CLONES"
  until [ -e "$GO" ]; do sleep 0.05; done
fi
PATH=${PATH#*:}
exec git "$@"
"""
JOB = 'git rev-parse HEAD >"$SLURM_SUBMIT_DIR/began"\nexec sleep 60\n'


def made(project: Path, job: str, **programs: str) -> None:
    """A project with one commit, whose jobs do `job`; its .venv has `programs`."""
    for name, text in programs.items():
        program = project / ".venv/bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    shutil.copytree(ROOT / "launchers", project / "launchers")
    (project / "launchers/job.sh").write_text(job)
    (project / "data").mkdir()
    (project / "data/README.md").touch()
    git(project, "init", "-q")
    git(project, "add", "launchers", "data")
    git(project, "commit", "-qm", "submitted")


def test_a_task_of_an_array_requeues_itself_alone_and_runs_the_commit_it_was_submitted_with(tmp_path: Path) -> None:
    """Of the last task SLURM_JOB_ID is the array's id: by that Slurm would requeue, and so kill, all others, too."""
    made(tmp_path, JOB, dvc=DVC, scontrol=SCONTROL)
    submitted = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=tmp_path, text=True).strip()
    git(tmp_path, "commit", "-q", "--amend", "-m", "amended while the job waited")
    of_slurm = {"SLURM_JOB_ID": "36", "SLURM_ARRAY_JOB_ID": "36", "SLURM_ARRAY_TASK_ID": "2"}
    given = {"EPSILON_DPO_COMMIT": submitted, "MLFLOW_TRACKING_URI": NOBODY}
    env = os.environ | of_slurm | given | {"SLURM_SUBMIT_DIR": str(tmp_path)}
    script = ["bash", "launchers/slurm/runs.sbatch"]
    with subprocess.Popen(script, cwd=tmp_path, env=env, start_new_session=True) as job:
        try:
            until(lambda: (tmp_path / "began").exists() and (tmp_path / "began").read_text(), 60)
            job.send_signal(signal.SIGUSR1)
            until(lambda: (tmp_path / "asked").exists() and (tmp_path / "asked").read_text(), 60)
        finally:
            os.killpg(job.pid, signal.SIGKILL)
    assert (tmp_path / "began").read_text().strip() == submitted
    assert (tmp_path / "asked").read_text() == "requeue 36_2\n"


def test_two_of_one_job_that_begin_at_once_make_one_copy(tmp_path: Path) -> None:
    """As of local.sh said in two terminals: the second removed the clone that the first was making."""
    made(tmp_path, 'echo "$1" >>"$DONE"\n', dvc=DVC, git=GIT)
    clones, done, go, said = (tmp_path / name for name in ("clones", "done", "go", "said"))
    env = os.environ | {"CLONES": str(clones), "DONE": str(done), "GO": str(go)}
    env["PATH"] = f"{tmp_path}/.venv/bin:{env['PATH']}"
    command = ["bash", "launchers/in-copy.sh", "shared"]
    first = subprocess.Popen(command, cwd=tmp_path, env=env)
    try:
        until(clones.exists, 60)
        with said.open("w") as stderr:
            second = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=stderr)
        until(lambda: "another job works in" in said.read_text() or len(clones.read_text().split()) > 1, 60)
    finally:
        go.touch()
    assert [first.wait(60), second.wait(60)] == [0, 0] and len(clones.read_text().split()) == 1
    assert done.read_text().split() == ["shared", "shared"]


def test_a_job_that_nobody_told_of_the_server_does_not_run(tmp_path: Path) -> None:
    """submit.sh asks for the address; this is a job that was given to sbatch by hand, from another shell."""
    env = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "36", "SLURM_SUBMIT_DIR": str(tmp_path)}
    script = ["bash", str(ROOT / "launchers/slurm/runs.sbatch"), "2"]
    done = subprocess.run(script, cwd=tmp_path, env=env, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1 and "export MLFLOW_TRACKING_URI=" in done.stderr and "\n" not in done.stderr.strip()
