"""Finding content among the outputs that the locks record, and, where it is in none, the output that it was."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from epsilon_dpo.pipeline.stage.manifest import file_md5
from epsilon_dpo.provenance.whence.content import Cache, Members, equal_bytes, first_difference, shared_start
from epsilon_dpo.provenance.whence.descent import Descent, descent
from epsilon_dpo.provenance.whence.locks import Lock

EMPTY = "d41d8cd98f00b204e9800998ecf8427e"  # md5 of no bytes


@dataclass(frozen=True)
class Place:
    """Where content stands in a lock: `path`, from the project's root, is in an output of `stage`."""

    lock: Lock
    stage: str
    path: str


@dataclass(frozen=True)
class Difference:
    """How a file or folder differs from the output that it seems to have been.

    Attributes:
        place: that output.
        byte: the first byte, counted from 0, that differs in the first file of `changed`; None: not known, because the
            original is not in the cache.
        changed, missing, added: files of a folder by name; of a file `changed` is [""].
    """

    place: Place
    byte: int | None
    changed: list[str]
    missing: list[str]
    added: list[str]


class Records:
    """The outputs of all locks; `cut_off`: those of a shallow clone, which are not all that the project has had."""

    def __init__(self, locks: list[Lock], cache: Cache, cut_off: bool) -> None:
        self.locks = locks
        self.cache = cache
        self.cut_off = cut_off
        self._descents: dict[tuple[Lock, str], Descent] = {}

    def descent(self, place: Place) -> Descent:
        """What the stage of `place` was made from."""
        key = place.lock, place.stage
        if key not in self._descents:
            self._descents[key] = descent(*key, self.cache)
        return self._descents[key]

    def find(self, members: Members, asked: str = "") -> list[Place]:
        """Every place of this content, by lock; in each `asked` first, then that of the stage that made it first.

        Args:
            asked: the path from the project's root at which it lies, "" elsewhere. Where no file of `members` has
                content, only this place counts: the stages that made such files are not one another's origin.
        """
        some = next(iter(members.values()))
        found = []
        for lock in self.locks:
            if self._holds(lock, some):
                places = [place for place in self._places(lock) if self.members(place) == members]
                found += sorted(places, key=lambda place: (place.path != asked, _depth(place), place.path))
        if asked_for := [place for place in found if place.path == asked and is_empty(members)]:
            return asked_for
        return found

    def unread(self) -> list[str]:
        """The outputs whose lists of files the cache lacks, so that nothing can be looked up in them."""
        outs = {(out, md5) for lock in self.locks for entry in lock.stages.values() for out, md5 in entry.outs.items()}
        return sorted({out for out, md5 in outs if self.cache.members(md5) is None})

    def nearest(self, path: Path, members: Members) -> Difference | None:
        """What `path` was before somebody changed it: an output with its name, or one that shares its files."""
        if "" in members:
            return self._nearest_file(path)
        return self._nearest_folder(path, members)

    def _holds(self, lock: Lock, md5: str) -> bool:
        """Whether a digest in `lock` is this content or a folder that has it: cheaper than reading the lock's YAML."""
        return any(own == md5 or md5 in (self.cache.members(own) or {}).values() for own in lock.digests)

    def _places(self, lock: Lock) -> Iterator[Place]:
        """Every output, every file and every folder in one."""
        for stage, entry in lock.stages.items():
            for out, md5 in entry.outs.items():
                names = self.cache.members(md5) or {}
                inside = {str(parent) for name in names for parent in PurePosixPath(name).parents} - {"."}
                for name in ["", *sorted(inside | set(names) - {""})]:
                    yield Place(lock, stage, f"{out}/{name}".rstrip("/"))

    def members(self, place: Place) -> Members:
        """The files at `place`, by name from there, "" if it is a file itself."""
        for out, md5 in place.lock.stages[place.stage].outs.items():
            if place.path == out:
                return self.cache.members(md5) or {}
            if place.path.startswith(f"{out}/"):
                inside, known = place.path.removeprefix(f"{out}/"), self.cache.members(md5) or {}
                if inside in known:
                    return {"": known[inside]}
                return {
                    name.removeprefix(f"{inside}/"): own for name, own in known.items() if name.startswith(f"{inside}/")
                }
        return {}

    def _nearest_file(self, path: Path) -> Difference | None:
        found: dict[str, Place] = {}
        for lock in self.locks:
            for place in self._places(lock):
                own = self.members(place)
                if "" in own and PurePosixPath(place.path).name == path.name:
                    found.setdefault(own[""], place)
        best = max((_shared_end(path, place.path) for place in found.values()), default=0)
        alike = [(md5, place) for md5, place in found.items() if _shared_end(path, place.path) == best]
        if not alike:
            return None
        md5, place = max(alike, key=lambda item: self._likeness(path, item[0]))
        return Difference(place, self._first_byte(path, md5), [""], [], [])

    def _likeness(self, path: Path, md5: str) -> int:
        original = self.cache.file(md5)
        return -1 if original is None else equal_bytes(path, original)

    def _nearest_folder(self, path: Path, members: Members) -> Difference | None:
        def score(place: Place) -> tuple[int, int, int]:
            own = self.members(place)
            same = sum(members.get(name) == md5 for name, md5 in own.items())
            return same, -len(own.keys() ^ members.keys()), _shared_end(path, place.path)

        places = [place for lock in self.locks for place in self._places(lock) if "" not in self.members(place)]
        place = max(places, key=score, default=None)
        if place is None or not score(place)[0]:
            return None
        own = self.members(place)
        changed = sorted(name for name in own.keys() & members.keys() if own[name] != members[name])
        byte = self._first_byte(path / changed[0], own[changed[0]]) if changed else None
        return Difference(
            place, byte, changed, sorted(own.keys() - members.keys()), sorted(members.keys() - own.keys())
        )

    def _first_byte(self, path: Path, md5: str) -> int | None:
        """The first byte in which `path` differs from the content of this md5, if the cache has it undamaged."""
        original = self.cache.file(md5)
        if original is None or file_md5(original) != md5:
            return None
        return first_difference(path, original)


def is_empty(members: Members) -> bool:
    """Whether no file of `members` has content."""
    return set(members.values()) == {EMPTY}


def _depth(place: Place) -> int:
    """The number of stages that a stage was made from: what made a content first has fewest."""
    return len(place.lock.ancestors(place.stage))


def _shared_end(path: Path, other: str) -> int:
    """How many parts of two paths are the same, from their ends."""
    return shared_start(path.resolve().parts[::-1], PurePosixPath(other).parts[::-1])
