"""Files by the digests that DVC records, and DVC's cache, which is read and never written."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from operator import eq
from pathlib import Path, PurePosixPath

from epsilon_dpo.pipeline.stage.manifest import file_md5

BLOCK = 1 << 20  # bytes compared at once
Members = dict[str, str]  # md5 by path relative to a folder, "" for a file itself


class Cache:
    """The cache of a project: objects of content by md5, `.dir` objects with the list of a folder's files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lists: dict[str, Members | None] = {}

    @cached_property
    def _folder(self) -> Path:
        """Without dvc.repo.Repo, which makes folders of its own when it is opened."""
        from dvc.config import Config

        dvc_dir = self.root / ".dvc"
        return Path(Config(str(dvc_dir), validate=False)["cache"].get("dir") or dvc_dir / "cache") / "files" / "md5"

    def file(self, md5: str) -> Path | None:
        """The file with this content, if the cache has it."""
        path = self._folder / md5[:2] / md5[2:]
        return path if path.is_file() else None

    def members(self, md5: str) -> Members | None:
        """What an output of this md5 is made of; None: it is a folder whose list the cache does not have."""
        if not md5.endswith(".dir"):
            return {"": md5}
        if md5 not in self._lists:
            listed = self.file(md5)
            rows = None
            with suppress(ValueError):  # a list that was cut off is as good as none
                rows = None if listed is None else json.loads(listed.read_text("utf-8"))
            found = None if rows is None else {row["relpath"]: row["md5"] for row in rows}
            # DVC writes no such names; a remote that has them would have files written outside the folder.
            astray = any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in found or ())
            self._lists[md5] = None if astray else found
        return self._lists[md5]


def folder_md5(members: Members) -> str:
    """As DVC records it for a folder of these files: the digest of their list as it writes it."""
    rows = [{"md5": members[name], "relpath": name} for name in sorted(members)]
    return hashlib.md5(json.dumps(rows).encode(), usedforsecurity=False).hexdigest() + ".dir"


def members_of(path: Path, ignored: Path | None) -> Members:
    """md5 of `path`, or of each file in the folder `path`.

    Args:
        ignored: the project's .dvcignore: what its patterns match, DVC does not see in an output either.
    """
    if path.is_file():
        return {"": file_md5(path)}
    skip = _patterns(ignored)
    found = {}
    for file in sorted(path.rglob("*")):
        name = str(PurePosixPath(file.relative_to(path)))
        if file.is_file() and not skip(name):
            found[name] = file_md5(file)
    return found


def _patterns(ignored: Path | None) -> Callable[[str], bool]:
    from pathspec import GitIgnoreSpec

    lines = ignored.read_text("utf-8").splitlines() if ignored is not None and ignored.is_file() else []
    spec = GitIgnoreSpec.from_lines(
        line for line in lines if not line.startswith("/")
    )  # of any folder, not of the root
    return lambda name: bool(spec.match_file(name))


def first_difference(one: Path, other: Path) -> int | None:
    """The first byte, counted from 0, in which two files differ; the length of the shorter where it begins the other;
    None if they are equal."""
    at = 0
    for left, right in _blocks(one, other):
        if left != right:
            return at + shared_start(left, right)
        at += len(left)
    return None


def shared_start(one: Sequence[object], other: Sequence[object]) -> int:
    """How many items two sequences have in common before the first that differs."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def equal_bytes(one: Path, other: Path) -> int:
    """How many of the first BLOCK bytes are the same: a likeness of two files that is found without reading all."""
    return next((sum(map(eq, left, right)) for left, right in _blocks(one, other)), 0)


def _blocks(one: Path, other: Path) -> Iterator[tuple[bytes, bytes]]:
    with one.open("rb") as first, other.open("rb") as second:
        while True:
            pair = first.read(BLOCK), second.read(BLOCK)
            if pair == (b"", b""):
                return
            yield pair
