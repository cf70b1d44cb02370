"""What each output will hold once the stages before a stage are done, as far as that can be known before they run."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.output import Output
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc_data.hashfile.build import build
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta
from dvc_data.hashfile.tree import Tree
from pygtrie import StringTrie


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
        meta: what DVC records beside the hash.
        waits_for: the stages that have to run before it is known.
        on_disk: whether it holds that already.
        computed: whether stages make it; else it is a source.
    """

    hash_info: HashInfo | None
    waits_for: tuple[str, ...] = ()
    on_disk: bool = True
    computed: bool = True
    meta: Meta = field(default_factory=Meta)


class Outputs:
    """The outputs of the stages so far, in the order of `dvc repro`.

    Args:
        gone: paths of outputs of runs that params.yaml no longer has, which stage check removes before others look.
    """

    def __init__(self, repo: Repo, gone: Iterable[str] = ()) -> None:
        self.repo = repo
        # By path; a trie finds those above and below another without a look at each, of which a large project has many.
        self._gone = StringTrie.fromkeys(filter(os.path.exists, gone), True, separator=os.sep)
        self._made = StringTrie(separator=os.sep)
        self._now: dict[str, tuple[HashInfo | None, Meta]] = {}

    def add(self, stage: PipelineStage, hashes: Mapping[str, HashInfo] | None) -> None:
        """Say what `stage` will leave: a hash per output's path; None if only running it can tell."""
        for out in stage.outs:
            after = hashes[out.fs_path] if hashes is not None else None
            self._made[out.fs_path] = Made(stage.addressing, after, after is not None and after == self.now(out))

    def now(self, item: Output) -> HashInfo | None:
        """DVC's hash of what is on the disk; None if nothing is there."""
        return self._found(item)[0]

    def _found(self, item: Output) -> tuple[HashInfo | None, Meta]:
        if item.fs_path not in self._now:
            meta, hash_info = item._get_hash_meta() if item.exists else (Meta(), None)
            self._now[item.fs_path] = (hash_info, meta)
        return self._now[item.fs_path]

    def expected(self, dep: Output) -> Expected:
        """What `dep`, which is no ParamsDependency, will hold."""
        assert not isinstance(dep, ParamsDependency)
        path = dep.fs_path
        near: dict[str, Made] = _near(self._made, path)
        if not near:
            hash_info, meta = self._found(dep)
            return Expected(hash_info, computed=False, meta=meta)
        waits_for = sorted({made.stage for made in near.values() if made.hash_info is None})
        if waits_for:
            return Expected(None, tuple(waits_for))
        if all(made.on_disk for made in near.values()) and not _near(self._gone, path):
            hash_info, meta = self._found(dep)
            return Expected(hash_info, meta=meta)
        return Expected(self._composed(dep, near), on_disk=False)

    def _composed(self, dep: Output, near: dict[str, Made]) -> HashInfo | None:
        """The hash of `dep` once DVC has put the outputs `near` in their places, from its cache."""
        cache, tree = self.repo.cache.local, Tree()
        put = StringTrie.fromkeys(near, True, separator=os.sep)
        if dep.exists and dep.isdir():
            _, _, found = build(cache, dep.fs_path, self.repo.fs, "md5", ignore=self.repo.dvcignore, dry_run=True)
            assert isinstance(found, Tree)
            for name, meta, hash_info in found:
                path = os.path.join(dep.fs_path, *name)
                if not put.longest_prefix(path) and not self._gone.longest_prefix(path):
                    tree.add(name, meta, hash_info)
        for path, made in near.items():
            assert made.hash_info is not None
            if path == dep.fs_path:
                return made.hash_info
            if PurePath(dep.fs_path).is_relative_to(path):  # a part of an output
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


def _near(trie: StringTrie, path: str) -> dict[str, Any]:
    """What `trie` has at `path`, above it and below it, by path."""
    return dict(trie.prefixes(path)) | dict(trie.items(path) if trie.has_node(path) else ())
