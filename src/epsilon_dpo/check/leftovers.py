"""What runs that params.yaml no longer names left behind: their folders of out/ and their entries of dvc.lock.

Stages that compare all runs depend on folders such as out/score, so a folder of a run that is gone would enter
what DVC hashes for them, here and not in a colleague's clone.
"""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.fingerprint import DVC_FILE
from epsilon_dpo.pipeline.stage.params import METRICS, RUN_NAME, read_yaml

LOCK_FILE = Path("dvc.lock")


def remove_leftovers(runs: list[str]) -> list[str]:
    """Remove what dvc.lock records of runs that are not in `runs`; a folder that DVC did not make stays.

    DVC's cache keeps the removed outputs: with the run in params.yaml again, `dvc repro` takes them from its run cache,
    or `dvc checkout` with the dvc.lock of before.

    Returns:
        the names of the runs that were removed.

    Raises:
        UserError: another `dvc` is writing dvc.lock.
    """
    stages = read_yaml(DVC_FILE)["stages"]
    recorded = read_yaml(LOCK_FILE).get("stages", {}) if LOCK_FILE.exists() else {}
    gone = []
    for entry in recorded:
        stage, _, run = entry.partition("@")
        of_a_run = stages.get(stage, {}).get("foreach") == "${runs}" and re.fullmatch(RUN_NAME, run)
        if of_a_run and run not in runs:
            gone.append(entry)
    for entry in gone:
        stage, _, run = entry.partition("@")
        for folder in (Path("out") / stage / run, Path("out") / stage / METRICS / run):
            if folder.is_dir():
                shutil.rmtree(folder)
    if gone:
        _forget(gone)  # last: until then the next execution finds them again
    return sorted({entry.partition("@")[2] for entry in gone})


def _forget(entries: list[str]) -> None:
    """Take them out of dvc.lock as DVC writes it, and under its lock, which it lets go while a stage runs."""
    from dvc.dvcfile import Lockfile  # takes a second, and is rarely needed
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        with Repo() as repo, repo.lock:
            for entry in entries:
                Lockfile(repo, str(LOCK_FILE)).remove_stage(SimpleNamespace(name=entry))
    except LockError:
        raise UserError(f"{LOCK_FILE} is being written by another dvc; wait for it and run this again.") from None
