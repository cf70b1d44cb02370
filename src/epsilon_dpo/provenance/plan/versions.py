"""Which files below a dependency changed since dvc.lock was written, found in git.

dvc.lock holds one hash per folder, and DVC keeps no copy of a dependency. Git does: where the hash of the folder in a
commit, computed by DVC on git's files, equals that of dvc.lock, this commit holds what the stage last read. If no
commit does, the last run saw edits that were not committed: they are then looked for among the files that differ from
HEAD, each as it is there or as it is now.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from dvc.fs import GitFileSystem
from dvc.ignore import DvcIgnoreFilter
from dvc.output import Output
from dvc.repo import Repo
from dvc.scm import Git
from dvc_data.hashfile.build import build
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError

Files = dict[tuple[str, ...], HashInfo]  # by path below the dependency; a dependency that is a file is ()
COMMITS = 20  # that changed a dependency, the newest
FILES_READ = 4000  # of commits other than HEAD, in one plan: some seconds
UNCOMMITTED = 8  # files that differ from HEAD, of which every choice is tried


@dataclass(frozen=True)
class FileChange:
    """A file that differs from what the stage last read.

    Attributes:
        path: relative to the project's root.
        how: changed, added or removed.
        before: what it held, if it is Python and is not new.
    """

    path: str
    how: str
    before: str | None = None


class Versions:
    """The files of dependencies as they were when dvc.lock was written."""

    def __init__(self, repo: Repo) -> None:
        self.repo = repo
        self._read = 0
        self._changes: dict[tuple[str, str], list[FileChange] | None] = {}

    def changes(self, dep: Output) -> list[FileChange] | None:
        """The files at or below `dep`, which exists, that differ from those that dvc.lock speaks of.

        Returns:
            None if neither a commit nor a mixture of HEAD and what is there now has the hash of dvc.lock.
        """
        key = (dep.fs_path, dep.hash_info.value)
        if key not in self._changes:
            self._changes[key] = self._find(dep)
        return self._changes[key]

    def by_hand(self, out: Output) -> list[FileChange]:
        """The files of an output, which exists, that differ from those in DVC's cache; none if it has none."""
        with suppress(FileNotFoundError, ObjectFormatError):
            then: Files = {(): out.hash_info}
            if out.hash_info.isdir:
                then = _files(Tree.load(self.repo.cache.local, out.hash_info))
            return _differing(str(out), then, self._files_now(out.fs_path))
        return []

    def _find(self, dep: Output) -> list[FileChange] | None:
        if not isinstance(self.repo.scm, Git) or not dep.is_in_repo:
            return None
        path = Path(dep.fs_path).relative_to(self.repo.root_dir).as_posix()
        now = self._files_now(dep.fs_path)
        if () in now and not path.endswith(".py"):
            return [FileChange(path, "changed")]  # there is no more to know
        for commit in self._commits(path):
            then = self._files_at(commit, path)
            if then is None:
                continue
            if _digest(then) == dep.hash_info:
                return self._differences(path, commit, then, now)
            mixed = _mixture(then, now, dep.hash_info) if commit == "HEAD" else None
            if mixed is not None:
                return self._differences(path, commit, mixed, now)
            self._read += len(then) if commit != "HEAD" else 0
            if self._read > FILES_READ:
                break
        return None

    def _commits(self, path: str) -> Iterator[str]:
        """HEAD, then what changed `path` on any branch and in DVC's experiments, the newest first."""
        yield "HEAD"
        command = ["git", "log", "--all", "--format=%H", f"-n{COMMITS}", "--", path]
        quiet = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
        done = subprocess.run(command, cwd=self.repo.root_dir, env=quiet, capture_output=True, text=True, check=False)
        yield from done.stdout.split()

    def _files_now(self, path: str) -> Files:
        _, _, found = build(self.repo.cache.local, path, self.repo.fs, "md5", ignore=self.repo.dvcignore, dry_run=True)
        return _files(found)

    def _files_at(self, commit: str, path: str) -> Files | None:
        """None if the commit does not have `path`, or there is no such commit."""
        with suppress(Exception):  # git's backends have no exception in common
            fs, top = self._git(commit)
            ignore = DvcIgnoreFilter(fs, top)
            _, _, found = build(self.repo.cache.local, fs.join(top, path), fs, "md5", ignore=ignore, dry_run=True)
            return _files(found)
        return None

    def _git(self, commit: str) -> tuple[GitFileSystem, str]:
        """The files of a commit, and the project's folder among them, which need not be git's."""
        fs = GitFileSystem(scm=self.repo.scm, rev=commit)
        below = os.path.relpath(self.repo.root_dir, self.repo.scm.root_dir)
        return fs, fs.normpath(fs.join("/", below))

    def _differences(self, path: str, commit: str, then: Files, now: Files) -> list[FileChange]:
        """Of two states of `path`; a file that is otherwise now has in `commit` the content of `then`."""
        fs, top = self._git(commit)
        found = _differing(path, then, now)
        for number, change in enumerate(found):
            if change.how != "added" and change.path.endswith(".py"):
                text = fs.read_text(fs.join(top, change.path), encoding="utf-8")
                found[number] = replace(change, before=text)
        return found


def _differing(path: str, then: Files, now: Files) -> list[FileChange]:
    found = []
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            how = "added" if name not in then else "removed" if name not in now else "changed"
            found.append(FileChange("/".join((path, *name)), how))
    return found


def _files(found: Tree | Output) -> Files:
    if isinstance(found, Tree):
        return {name: hash_info for name, _, hash_info in found}
    return {(): found.hash_info}


def _digest(files: Files) -> HashInfo:
    """DVC's hash of a folder with these files; of a file, its own."""
    if () in files:
        return files[()]
    tree = Tree()
    for name, hash_info in files.items():
        tree.add(name, Meta(), hash_info)
    tree.digest()
    return tree.hash_info


def _mixture(then: Files, now: Files, wanted: HashInfo) -> Files | None:
    """`then` with some of its files as they are `now`, if one such choice has the hash `wanted`."""
    differing = [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]
    if len(differing) > UNCOMMITTED:
        return None
    for count in range(1, len(differing)):
        for chosen in combinations(differing, count):
            mixed = {name: value for name, value in then.items() if name not in chosen}
            mixed |= {name: now[name] for name in chosen if name in now}
            if mixed and _digest(mixed) == wanted:
                return mixed
    return None
