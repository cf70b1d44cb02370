"""A job of launchers/slurm/runs.sbatch, without Slurm: which commit it runs, and how it goes back into the queue."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from processes_of_tests import until
from test_dvc_commands import git
from whole_pipeline import ROOT

DVC = "#!/bin/sh\n[ $2 != list ] || echo 'store /a/store (default)'\n"
SCONTROL = '#!/bin/sh\necho "$@" >"$SLURM_SUBMIT_DIR/asked"\n'
JOB = 'git rev-parse HEAD >"$SLURM_SUBMIT_DIR/began"\nexec sleep 60\n'


def test_a_task_of_an_array_requeues_itself_alone_and_runs_the_commit_it_was_submitted_with(tmp_path: Path) -> None:
    """Of the last task SLURM_JOB_ID is the array's id: by that Slurm would requeue, and so kill, all others, too."""
    for name, text in (("dvc", DVC), ("scontrol", SCONTROL)):
        program = tmp_path / ".venv/bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    shutil.copytree(ROOT / "launchers", tmp_path / "launchers")
    (tmp_path / "launchers/job.sh").write_text(JOB)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/README.md").touch()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "launchers", "data")
    git(tmp_path, "commit", "-qm", "submitted")
    submitted = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=tmp_path, text=True).strip()
    git(tmp_path, "commit", "-q", "--amend", "-m", "amended while the job waited")
    of_slurm = {"SLURM_JOB_ID": "36", "SLURM_ARRAY_JOB_ID": "36", "SLURM_ARRAY_TASK_ID": "2"}
    env = os.environ | of_slurm | {"SLURM_SUBMIT_DIR": str(tmp_path), "EPSILON_DPO_COMMIT": submitted}
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
