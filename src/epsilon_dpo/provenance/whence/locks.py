"""Every dvc.lock that a project has had: in the workspace, and in the commits of branches, tags and experiments."""

import os
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.params import PARAMS_FILE

LOCK = "dvc.lock"
MD5 = re.compile(r"\bmd5: ([0-9a-f]{32}(?:\.dir)?)\s")
CODE = ("src", "stages")
# A stash is somebody's workspace, also one of DVC's queue, which lies in refs/exps beside the experiments: no clone has
# it, and `git stash drop` or `dvc queue remove` takes it away.
LASTING = ("--exclude=refs/stash", "--exclude=refs/exps/*", "--all")
EXPERIMENTS = "refs/exps/[0-9a-f][0-9a-f]/"
NO_HISTORY = ("not a git repository", "Needed a single revision")  # as git says it


@dataclass(frozen=True)
class Commit:
    """A commit in which dvc.lock was changed to what it is.

    Attributes:
        date: of the commit, YYYY-MM-DD.
        experiment: name of the DVC experiment that it is, and nothing else: no branch or tag has it.
    """

    sha: str
    date: str
    subject: str
    experiment: str | None = None


@dataclass(frozen=True)
class Entry:
    """A stage in a dvc.lock.

    Attributes:
        outs, deps: md5 by path from the project's root.
        params: those of params.yaml, by dotted key.
        pins: versions by package: what it has of other files, which is pins.yaml.
    """

    name: str
    outs: dict[str, str]
    deps: dict[str, str]
    params: dict[str, Any]
    pins: dict[str, str]

    @property
    def data_deps(self) -> list[str]:
        """The dependencies that are no code."""
        return [path for path in self.deps if path.split("/")[0] not in CODE and not path.endswith(".py")]


@dataclass(eq=False)
class Lock:
    """One content of a dvc.lock.

    Attributes:
        folder: where the file is, from the project's root.
        commits: those that have it, newest first.
        in_workspace: whether the workspace has it.
        unreadable: whether it is not what DVC writes: it has merge marks, or is cut off.
    """

    text: str
    folder: PurePosixPath
    commits: list[Commit] = field(default_factory=list)
    in_workspace: bool = False
    unreadable: bool = False  # known when its stages were asked for

    @cached_property
    def digests(self) -> set[str]:
        """Every md5 in it, of outputs or not: cheaper than reading its YAML."""
        return set(MD5.findall(self.text))

    @cached_property
    def stages(self) -> dict[str, Entry]:
        """By name; none if the file cannot be read, as after a merge with conflicts, or while DVC writes it."""
        try:
            content = YAML(typ="safe").load(self.text)
            stages = content.get("stages") if isinstance(content, dict) else None
            return {name: self._entry(name, stage) for name, stage in (stages or {}).items()}
        except (YAMLError, AttributeError, KeyError, TypeError):
            self.unreadable = True
            return {}

    def _entry(self, name: str, stage: dict[str, Any]) -> Entry:
        params: dict[str, Any] = {}
        pins: dict[str, str] = {}
        for file, values in stage.get("params", {}).items():
            (params if PurePosixPath(file).name == PARAMS_FILE.name else pins).update(values)
        return Entry(name, self._digests(stage.get("outs", [])), self._digests(stage.get("deps", [])), params, pins)

    def _digests(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        return {posixpath.normpath(self.folder / row["path"]): row["md5"] for row in rows if "md5" in row}

    def parents(self, stage: str) -> list[str]:
        """The stages whose outputs `stage` read, in the order of its dependencies."""
        deps = self.stages[stage].data_deps
        return [
            other
            for other, entry in self.stages.items()
            if other != stage and any(overlap(dep, out) for dep in deps for out in entry.outs)
        ]

    def ancestors(self, stage: str) -> list[str]:
        """`stage` itself and all that it was made from, each before what it was made from itself."""
        done: list[str] = []

        def visit(name: str) -> None:
            for parent in reversed(self.parents(name)):  # so that runs come in their order
                if parent not in done:
                    visit(parent)
            if name not in done:
                done.append(name)

        visit(stage)
        return done[::-1]


def overlap(dep: str, out: str) -> bool:
    return dep == out or dep.startswith(f"{out}/") or out.startswith(f"{dep}/")


def all_locks(root: Path) -> list[Lock]:
    """That of the workspace first, then those of the commits, newest first; each content once.

    Says on stderr for how many commits it could not be read.

    Args:
        root: of the project, which need not be in a git repository.

    Raises:
        UserError: as _git and _blobs.
    """
    locks: dict[tuple[str, PurePosixPath], Lock] = {}
    for path in [root / LOCK, *sorted(root.glob(f"*/{LOCK}"))]:
        if path.is_file():
            folder = PurePosixPath(path.parent.relative_to(root))
            text = path.read_text("utf-8")  # once: DVC may be writing it
            locks.setdefault((text, folder), Lock(text, folder)).in_workspace = True
    changes = list(_changes(root))
    texts = _blobs(root, list(dict.fromkeys(blob for _, _, blob in changes)))
    unread = set()
    for commit, folder, blob in changes:
        if blob not in texts:
            unread.add(commit.sha)
            continue
        commits = locks.setdefault((texts[blob], folder), Lock(texts[blob], folder)).commits
        if commit not in commits:
            commits.append(commit)
    if unread:
        print(
            f"dvc.lock of {len(unread)} commit{'s' * (len(unread) > 1)} is not in this clone, and git cannot fetch it, "
            "so that nothing was looked for there; try again when its remote can be reached.",
            file=sys.stderr,
            flush=True,
        )
    return list(locks.values())


def is_cut_off(root: Path) -> bool:
    """Whether the repository is a shallow clone, whose older commits are not there to be looked in.

    Raises:
        UserError: as _git.
    """
    return _git(root, "rev-parse", "--is-shallow-repository") == ["true"]


def _changes(root: Path) -> Iterator[tuple[Commit, PurePosixPath, str]]:
    """Each commit that changed a dvc.lock, where that is, and its blob; newest first."""
    named = (
        line.split(" ", 1) for line in _git(root, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps")
    )
    names = {sha: ref.split("/")[-1] for sha, ref in named if re.match(f"{EXPERIMENTS}[0-9a-f]{{38}}/", ref)}
    form = "--format=commit %H%x09%cs%x09%s"
    if names:  # `dvc exp branch` makes a branch of an experiment's very commit
        for sha in _git(root, "rev-list", *LASTING, "--full-history", "--", LOCK, f"*/{LOCK}"):
            names.pop(sha, None)
    refs = (*LASTING, f"--glob={EXPERIMENTS}*")
    how = ("--full-history", "-m", "--raw", "--no-abbrev", "--no-renames", "--relative")
    commit = None
    for line in _git(root, "log", *refs, *how, form, "--", LOCK, f"*/{LOCK}"):
        if line.startswith("commit "):
            sha, date, subject = line.removeprefix("commit ").split("\t", 2)
            commit = Commit(sha, date, subject, names.get(sha))
        elif line.startswith(":") and commit is not None:
            change, path = line.split("\t", 1)
            blob = change.split()[3]
            if int(blob, 16):  # zeros where the file was removed
                yield commit, PurePosixPath(path).parent, blob


def _blobs(root: Path, names: list[str]) -> dict[str, str]:
    """The text of each blob but those that git does not have, as where a clone has a filter and its remote is away.

    Raises:
        UserError: git fails.
    """
    if not names:
        return {}
    done = _cat_file(root, names, "--batch")
    if done.returncode:  # it ended at the first blob that the remote did not give
        listed = _cat_file(root, [], "--batch-check=%(objectname)", "--batch-all-objects", "--unordered")
        there = set(listed.stdout.decode().split())
        done = _cat_file(root, [name for name in names if name in there], "--batch")
    if done.returncode:
        raise _refusal(root, done.stderr.decode(errors="replace"))
    texts, at = {}, 0
    while at < len(done.stdout):
        end = done.stdout.index(b"\n", at)
        name, *what = done.stdout[at:end].decode().split()  # NAME blob SIZE, or NAME missing
        at = end + 1
        if len(what) > 1:
            size = int(what[1])
            texts[name] = done.stdout[at : at + size].decode(errors="replace")
            at += size + 1
    return texts


def _cat_file(root: Path, names: list[str], *how: str) -> subprocess.CompletedProcess[bytes]:
    command = ["git", "-C", str(root), "cat-file", *how]
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(command, input="\n".join(names).encode(), capture_output=True, check=False, env=environment)


def _refusal(root: Path, said: str) -> UserError:
    reason = said.strip().partition("\n")[0]
    return UserError(f"git does not read the history of {root}, where dvc.lock may be recorded: {reason}.")


def _git(root: Path, *arguments: str) -> list[str]:
    """The lines that git prints; none where there is no repository, or no commit in it.

    Raises:
        UserError: git refuses, as it does in a folder that is somebody else's.
    """
    if shutil.which("git") is None:
        return []
    command = ["git", "-C", str(root), "--no-optional-locks", "-c", "core.quotePath=false"]
    environment = os.environ | {"LC_ALL": "C"}
    for asked in (["rev-parse", "--verify", "HEAD"], arguments):
        # A subject may be in any encoding.
        done = subprocess.run([*command, *asked], capture_output=True, check=False, env=environment)
        printed, complaint = (of.decode("utf-8", "replace") for of in (done.stdout, done.stderr))
        if any(reason in complaint for reason in NO_HISTORY):
            return []
        if done.returncode:
            raise _refusal(root, complaint)
    return [line for line in printed.split("\n") if line]  # U+2028 or a carriage return in a subject ends no line
