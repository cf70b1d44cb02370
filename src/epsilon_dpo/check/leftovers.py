"""Leftovers of runs that params.yaml no longer names: their folders in out/ and their entries in dvc.lock.

Stages that compare all runs depend on folders such as out/score, so a folder of a run that is gone would enter
what DVC hashes for them, here and not in a colleague's clone.
"""

import re
import shutil
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from epsilon_dpo.pipeline.jobs.gather import LOCK_FILE, lock_file_alone
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.fingerprint import DVC_FILE, scratch_root
from epsilon_dpo.pipeline.stage.params import METRICS, RUN_NAME, read_yaml

Md5s = dict[str, str | None]  # by path; None where a remote keeps versions, of which DVC records none


def remove_leftovers(runs: list[str]) -> list[str]:
    """Remove what dvc.lock records of runs that are not in `runs`; a folder that DVC did not make stays.

    DVC's cache keeps the removed outputs: with the run in params.yaml again, `dvc repro` takes them from its run cache,
    or `dvc checkout` with the dvc.lock of before. What it does not have (`dvc repro --no-commit`, `dvc gc`) is moved to
    scratch/removed/.

    Returns:
        the names of the runs that were removed, with the folders that theirs were moved to.

    Raises:
        UserError: another `dvc` is writing dvc.lock, or it is damaged.
    """
    stages = read_yaml(DVC_FILE)["stages"]
    gone = {}
    for entry, md5s in _recorded().items():
        stage, _, run = entry.partition("@")
        of_a_run = stages.get(stage, {}).get("foreach") == "${runs}" and re.fullmatch(RUN_NAME, run)
        if of_a_run and run not in runs:
            gone[entry] = md5s
    if not gone:
        return []
    moved = _remove(gone)
    why = "which DVC's cache does not have"
    try:
        _forget(list(gone))  # last: until then the next execution finds them again, but no longer what was moved
    except UserError as error:
        if to := [str(path) for paths in moved.values() for path in paths]:
            raise UserError(f"{error} Moved meanwhile: {', '.join(to)}, {why}.") from None
        raise
    return [f"{run} (now {', '.join(map(str, to))}, {why})" if to else run for run, to in sorted(moved.items())]


def _recorded() -> dict[str, Md5s]:
    """What dvc.lock records of each stage.

    Raises:
        UserError: it cannot be read, has the marks of a merge, is what a kill left of it, or another `dvc` is writing
            it.
    """
    if not LOCK_FILE.exists():
        return {}
    found = _entries()
    if found is None:
        with lock_file_alone():  # DVC writes it in place, for seconds where it is long: what is read then is no damage
            found = _entries()
    if found is not None:
        return found
    if b"\n<<<<<<< " in b"\n" + LOCK_FILE.read_bytes():
        raise UserError(f'{LOCK_FILE} has conflict markers of a merge: keep either side (docs/dvc.md, "Merging").')
    raise UserError(
        f"{LOCK_FILE} is damaged: take it back from git (git checkout {LOCK_FILE}), or remove it if git has none; then "
        'run this again (docs/howto.md, "After a crash").'
    )


def _entries() -> dict[str, Md5s] | None:
    """None: the file is not what DVC writes."""
    try:
        entries = read_yaml(LOCK_FILE).get("stages", {})
        return {name: {out["path"]: out.get("md5") for out in entry.get("outs", [])} for name, entry in entries.items()}
    except UserError as error:
        if isinstance(error.__context__, OSError):
            raise
    except (AttributeError, TypeError, KeyError):
        pass
    return None


def _remove(gone: dict[str, Md5s]) -> dict[str, list[Path]]:
    """Remove the folders of these entries of dvc.lock that DVC's cache has, and move the others away.

    Returns:
        where to, by run.
    """
    from dvc.repo import Repo  # as in _forget

    moved: dict[str, list[Path]] = {}
    with Repo() as repo:
        for entry, md5s in gone.items():
            stage, _, run = entry.partition("@")
            to = moved.setdefault(run, [])
            for folder in (Path("out") / stage / run, Path("out") / stage / METRICS / run):
                if folder.is_dir() and _is_in(repo.cache.local, folder, md5s.get(folder.as_posix())):
                    shutil.rmtree(folder)
                elif folder.is_dir():
                    to.append(_move_away(folder))
    return moved


def _is_in(cache: Any, folder: Path, md5: str | None) -> bool:
    """Whether DVC's cache has what lies in the folder now: the list of its files, which is `md5`, and each of them."""
    from dvc.fs import localfs
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.tree import Tree

    if md5 is None:
        return False
    _, _, lies_there = build(cache, str(folder), localfs, "md5", dry_run=True)
    assert isinstance(lies_there, Tree)  # of a folder
    of_files = [info.value for _, _, info in lies_there]
    return lies_there.hash_info.value == md5 and all(map(cache.exists, [md5, *of_files]))


def _move_away(folder: Path) -> Path:
    removed = scratch_root() / "removed"
    removed.mkdir(parents=True, exist_ok=True)
    name = "-".join(folder.parts[1:])
    places = (removed / (name if number == 1 else f"{name}-{number}") for number in count(1))
    to = next(place for place in places if not place.exists())
    shutil.move(folder, to)
    return to


def _forget(entries: list[str]) -> None:
    """Take them out of dvc.lock as DVC writes it."""
    from dvc.dvcfile import Lockfile  # takes a second, and is rarely needed

    with lock_file_alone() as repo:
        for entry in entries:
            Lockfile(repo, str(LOCK_FILE)).remove_stage(SimpleNamespace(name=entry))
