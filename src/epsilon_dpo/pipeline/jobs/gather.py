"""The dvc.lock of a project from those of its copies, each of which ran some of the stages.

DVC reads and writes dvc.lock in full after each stage, so its time grows with the square of the runs in it
(docs/performance.md). Copies with some of the runs each have short ones. Their entries are taken as text: parsing what
100 runs record takes a minute.
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.fingerprint import DVC_FILE
from epsilon_dpo.pipeline.stage.params import PARAMS_FILE, read_yaml

LOCK_FILE = Path("dvc.lock")
HEAD = "schema: '2.0'\nstages:\n"  # as DVC begins it
ENTRY = re.compile(r"^  ([^ ].*):\n(?:(?: {4}.*)?\n)+", re.MULTILINE)  # a stage; a blank line is one of a long text


def gather(locks: Sequence[Path]) -> str:
    """Record in dvc.lock what `locks` record; a stage that none of them has keeps its entry.

    DVC compares an entry with the workspace before it trusts it: one of other code, params or data makes the stage run.

    Returns:
        how many stages are recorded now, and what to do next.

    Raises:
        UserError: a file is absent or not as DVC writes it, two of them differ about a stage, or another `dvc` is at
            work.
    """
    found: dict[str, str] = {}
    by: dict[str, Path] = {}
    for path in locks:
        for stage, entry in _entries(path).items():
            if found.setdefault(stage, entry) != entry:
                raise UserError(
                    f"{by[stage]} and {path} record different results of {stage}, so their code, params or data "
                    "differ: name only those of one commit."
                )
            by.setdefault(stage, path)
    declared = _declared()
    others = sorted(set(found) - declared)
    found = {stage: entry for stage, entry in found.items() if stage in declared}
    with lock_file_alone():
        before = _entries(LOCK_FILE) if LOCK_FILE.exists() else {}
        after = before | found
        _write(HEAD + "".join(after.values()))
    changed = sum(before.get(stage) != entry for stage, entry in found.items())
    left = f" Not taken over, since this project has no such stages: {', '.join(others)}." * bool(others)
    return (
        f"{LOCK_FILE} records {len(after)} stages, {changed} of them new or changed. Their outputs are brought by "
        "`dvc checkout --allow-missing` from DVC's cache, or by `dvc pull --allow-missing` from its remote; "
        f"`dvc repro` computes what is left.{left}"
    )


@contextmanager
def lock_file_alone() -> Iterator[Any]:
    """The DVC repository, whose dvc.lock no other `dvc` writes meanwhile, but a `dvc repro` while its stage runs.

    Raises:
        UserError: another one has the lock.
    """
    from dvc.lock import LockError  # takes a second
    from dvc.repo import Repo

    try:
        with Repo() as repo, repo.lock:
            yield repo
    except LockError:
        raise UserError(f"{LOCK_FILE} is being written by another dvc; wait for it and run this again.") from None


def _declared() -> set[str]:
    """The names of all stages, those of each run by `stage@run`."""
    stages, runs = read_yaml(DVC_FILE)["stages"], read_yaml(PARAMS_FILE)["runs"]
    return {name if "foreach" not in stage else f"{name}@{run}" for name, stage in stages.items() for run in runs}


def _entries(path: Path) -> dict[str, str]:
    """The text of each stage's entry, by its name.

    Raises:
        UserError: see `gather`.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}.") from None
    entries = {match[1]: match[0] for match in ENTRY.finditer(text)}
    if text != HEAD + "".join(entries.values()) or text.endswith(":\n"):
        raise UserError(
            f"{path} is not as DVC writes a dvc.lock: it was edited, is being merged, or DVC was killed as it wrote. "
            'Run its job again (docs/howto.md, "After a crash").'
        )
    return entries


def _write(text: str) -> None:
    target = LOCK_FILE.resolve()  # it may be a link
    partial = Path(".dvc/tmp", f"{LOCK_FILE}.{os.getpid()}")  # where what a kill leaves is in nobody's way
    partial.write_text(text, "utf-8")
    if target.exists():
        shutil.copymode(target, partial)
    shutil.move(partial, target)
