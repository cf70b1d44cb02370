"""What is said of a file whose content no record has: one sentence each."""

from pathlib import Path

from epsilon_dpo.pipeline.stage.fingerprint import MANIFEST
from epsilon_dpo.provenance.whence.locks import Lock
from epsilon_dpo.provenance.whence.search import Difference, Place, Records

NAMED = 5  # files of a folder, before the others are counted


def never_seen(path: Path, records: Records, inside: str) -> str:
    """That nothing of its name is known either; but what outputs lie in it, or which stages read it.

    Args:
        inside: its path from the project's root; empty if it is not in the project.
    """
    entries = [entry for lock in records.locks for entry in lock.stages.values()]
    held = sorted({out for entry in entries for out in entry.outs if inside and out.startswith(f"{inside}/")})
    if held:
        return f"{path} holds the outputs {_few(held)}; ask for one of them."
    readers = sorted(
        {entry.name for entry in entries for dep in entry.deps if inside and f"{inside}/".startswith(f"{dep}/")}
    )
    if readers:
        return f"{path} is no output but a source, read by {_few(readers)}; git knows its history."
    return f"{path} is {_nowhere(records)}, and none of them has its name{_unread(records)}."


def _nowhere(records: Records) -> str:
    return f"none of the outputs that {_these(records.locks)} records"


def empty(path: Path, places: list[Place]) -> str:
    """That the same could be said of every empty file."""
    others = len({place.path for place in places})
    what = "is empty" if path.is_file() else "holds empty files alone"
    return f"{path} {what}, as {others} output{'s are' if others > 1 else ' is'}; its content says nothing."


def altered(path: Path, nearest: Difference, records: Records) -> str:
    """That it is an output with changes."""
    where, rest = _nowhere(records), _unread(records)
    of = f" of {nearest.changed[0]}" if len(nearest.changed) > 1 else ""
    at = f"the first differing byte{of} is {nearest.byte}, counted from 0"
    if nearest.byte is None:
        at = "where they differ is not known, because the original is not in DVC's cache"
    if nearest.changed == [""]:
        return f"{path} has the name of {nearest.place.path} but other bytes: it is {where}; {at}{rest}."
    parts = []
    if nearest.changed:
        parts.append(f"{_few(nearest.changed)} changed ({at})")
    parts += [f"{_few(nearest.missing)} missing"] if nearest.missing else []
    parts += [f"{_few(nearest.added)} added"] if nearest.added else []
    return f"{path} is {nearest.place.path} with changes: {'; '.join(parts)}; as it is, it is {where}{rest}."


def _few(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _these(locks: list[Lock]) -> str:
    """Which files named dvc.lock were read."""
    commits = {commit.sha for lock in locks for commit in lock.commits}
    parts = ["the workspace"] if any(lock.in_workspace for lock in locks) else []
    parts += [f"{len(commits)} commit{'s' * (len(commits) > 1)}"] if commits else []
    return f"dvc.lock of {' and of '.join(parts)}"


def _unread(records: Records) -> str:
    """That it may be in an output whose list of files is not at hand; nothing if all are."""
    outs = records.unread()
    unreadable = any(lock.in_workspace and lock.unreadable for lock in records.locks)
    why = "it may have merge marks, or DVC may be writing it"
    marks = f" (dvc.lock of the workspace cannot be read: {why})" if unreadable else ""
    marks += older_commits(records)
    if not outs:
        return marks
    return marks + (
        f" (the lists of files of {len(outs)} outputs, such as {outs[0]}, are not in DVC's cache, so it may be in "
        "one of these: `dvc fetch --all-commits` brings them)"
    )


def older_commits(records: Records) -> str:
    """That commits are left which may record it; nothing where the history is whole."""
    if not records.cut_off:
        return ""
    return " (this clone is shallow, so older commits were not looked in: `git fetch --unshallow` brings them)"


def other_weights(path: Path, wrong: list[str]) -> str:
    """That the weights `wrong` are not those of the manifest beside them."""
    folder = path if path.is_dir() else path.parent
    return (
        f"{folder / wrong[0]} is not the file of weights that {folder / MANIFEST} names: its sha256 differs, so "
        "nothing that the manifest says applies to it."
    )


def other_than_recorded(path: Path, stage: str, records: Records) -> str:
    """That the manifest fits the weights, and neither what the project has of that stage."""
    return (
        f"By its {MANIFEST}, {path} is of stage {stage}, with params that a dvc.lock records, but the outputs recorded "
        f"there differ: another machine made it, or somebody changed it and its manifest{older_commits(records)}."
    )
