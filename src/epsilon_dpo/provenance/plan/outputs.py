"""What each output will hold once the stages before a stage are done, as far as that can be known before they run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from dvc.dependency import ParamsDependency
from dvc.output import Output
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc_data.hashfile.build import build
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta
from dvc_data.hashfile.tree import Tree


@dataclass(frozen=True)
class Made:
    """An output of a stage that comes earlier.

    Attributes:
        stage: its name.
        hash_info: of what it will hold; None if it has to be computed first.
        on_disk: whether it holds that already.
    """

    stage: str
    hash_info: HashInfo | None
    on_disk: bool


@dataclass(frozen=True)
class Expected:
    """What a dependency will hold when its stage's turn comes.

    Attributes:
        hash_info: None if it is missing, or not known.
        waits_for: the stages that have to run before it is known.
        on_disk: whether it holds that already.
        computed: whether stages make it; else it is a source.
    """

    hash_info: HashInfo | None
    waits_for: tuple[str, ...] = ()
    on_disk: bool = True
    computed: bool = True


class Outputs:
    """The outputs of the stages so far, in the order of `dvc repro`.

    Args:
        gone: paths of outputs of runs that params.yaml no longer has, which stage check removes before others look.
    """

    def __init__(self, repo: Repo, gone: Iterable[str] = ()) -> None:
        self.repo = repo
        self._gone = [path for path in gone if Path(path).exists()]
        self._made: dict[str, Made] = {}
        self._now: dict[str, HashInfo | None] = {}

    def add(self, stage: PipelineStage, hashes: Mapping[str, HashInfo] | None) -> None:
        """Say what `stage` will leave: a hash per output's path; None if only running it can tell."""
        for out in stage.outs:
            after = hashes[out.fs_path] if hashes is not None else None
            self._made[out.fs_path] = Made(stage.addressing, after, after is not None and after == self.now(out))

    def now(self, item: Output) -> HashInfo | None:
        """DVC's hash of what is on the disk; None if nothing is there."""
        if item.fs_path not in self._now:
            self._now[item.fs_path] = item.get_hash() if item.exists else None
        return self._now[item.fs_path]

    def expected(self, dep: Output) -> Expected:
        """What `dep`, which is no ParamsDependency, will hold."""
        assert not isinstance(dep, ParamsDependency)
        near = {path: made for path, made in self._made.items() if _overlap(path, dep.fs_path)}
        if not near:
            return Expected(self.now(dep), computed=False)
        waits_for = sorted({made.stage for made in near.values() if made.hash_info is None})
        if waits_for:
            return Expected(None, tuple(waits_for))
        if all(made.on_disk for made in near.values()) and not any(_below(path, dep.fs_path) for path in self._gone):
            return Expected(self.now(dep))
        return Expected(self._composed(dep, near), on_disk=False)

    def _composed(self, dep: Output, near: dict[str, Made]) -> HashInfo | None:
        """The hash of `dep` once DVC has put the outputs `near` in their places, from its cache."""
        cache, tree = self.repo.cache.local, Tree()
        put_or_gone = [*near, *self._gone]
        if dep.exists and dep.isdir():
            _, _, found = build(cache, dep.fs_path, self.repo.fs, "md5", ignore=self.repo.dvcignore, dry_run=True)
            assert isinstance(found, Tree)
            for name, meta, hash_info in found:
                if not any(_below(str(PurePath(dep.fs_path, *name)), path) for path in put_or_gone):
                    tree.add(name, meta, hash_info)
        for path, made in near.items():
            assert made.hash_info is not None
            if path == dep.fs_path:
                return made.hash_info
            if _below(dep.fs_path, path):  # a part of an output
                inside = PurePath(dep.fs_path).relative_to(path).parts
                part = Tree.load(cache, made.hash_info).get_obj(cache, inside)  # type: ignore[arg-type]
                return part.hash_info if part else None
            place = PurePath(path).relative_to(dep.fs_path).parts
            if made.hash_info.isdir:
                for name, meta, hash_info in Tree.load(cache, made.hash_info):
                    tree.add((*place, *name), meta, hash_info)
            else:
                tree.add(place, Meta(), made.hash_info)
        tree.digest()
        return tree.hash_info


def _below(path: str, folder: str) -> bool:
    return PurePath(path).is_relative_to(folder)


def _overlap(one: str, other: str) -> bool:
    return _below(one, other) or _below(other, one)
