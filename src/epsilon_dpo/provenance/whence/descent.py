"""What an output was made from, as far as its lock still has that.

A `dvc repro` that was interrupted leaves a lock in which some stages are new and those after them still the old ones:
what is recorded of a stage's parent is then not what it read. An edge of the graph counts only where the digests agree.
"""

from dataclasses import dataclass

from epsilon_dpo.provenance.whence.content import Cache, Members, folder_md5
from epsilon_dpo.provenance.whence.locks import Lock, overlap


@dataclass(frozen=True)
class Descent:
    """The stages behind one.

    Attributes:
        stages: it and those behind it, each before what it was made from itself; none behind what is stale.
        proven: those of which the digests say so; of the others the cache lacks a list of files.
        stale: paths that one of them read in another version than the lock has.
    """

    stages: list[str]
    proven: set[str]
    stale: list[str]


def descent(lock: Lock, stage: str, cache: Cache) -> Descent:
    """What `stage` was made from."""
    reached, proven = {stage}, {stage}
    stages = []
    for name in lock.ancestors(stage):  # each before its parents, so that one round is enough
        if name not in reached:
            continue
        stages.append(name)
        for parent in lock.parents(name):
            same = _is_what_was_read(lock, name, parent, cache)
            if same is not False:
                reached.add(parent)
            if same and name in proven:
                proven.add(parent)
    return Descent(stages, proven, sorted({path for name in stages for path in stale(lock, name, cache)}))


def stale(lock: Lock, stage: str, cache: Cache) -> list[str]:
    """The paths that `lock` has in another version than `stage` read."""
    entry = lock.stages[stage]
    return [path for path in entry.data_deps if _recorded(lock, path, cache) not in (None, entry.deps[path])]


def _is_what_was_read(lock: Lock, stage: str, parent: str, cache: Cache) -> bool | None:
    """Whether all that `stage` read of `parent` is what `parent` made; None: not known of a part."""
    entry = lock.stages[stage]
    read = [dep for dep in entry.data_deps if any(overlap(dep, out) for out in lock.stages[parent].outs)]
    recorded = {dep: _recorded(lock, dep, cache) for dep in read}
    if any(md5 not in (None, entry.deps[dep]) for dep, md5 in recorded.items()):
        return False
    return None if None in recorded.values() else True


def _recorded(lock: Lock, path: str, cache: Cache) -> str | None:
    """md5 of what the outputs of `lock` have at `path`, which may be in one or hold some; None: none is there, or the
    cache lacks the list of its files."""
    outs = {out: md5 for entry in lock.stages.values() for out, md5 in entry.outs.items() if overlap(path, out)}
    if path in outs or not outs:
        return outs.get(path)
    files: Members = {}
    for out, md5 in outs.items():
        members = cache.members(md5)
        if members is None:
            return None
        files |= {f"{out}/{name}".rstrip("/"): own for name, own in members.items()}
    if path in files:
        return files[path]
    return folder_md5(
        {name.removeprefix(f"{path}/"): md5 for name, md5 in files.items() if name.startswith(f"{path}/")}
    )
