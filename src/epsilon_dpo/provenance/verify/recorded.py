"""What dvc.lock records of each stage, and where its bytes are: in the workspace if they still are, or the cache."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dvc.dependency import ParamsDependency
from dvc.output import Output
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc_data.hashfile.build import build
from dvc_data.hashfile.tree import Tree

from epsilon_dpo.provenance.graph.project import Project


@dataclass(frozen=True)
class Content:
    """A file or folder as DVC hashes it.

    Attributes:
        md5: with .dir at its end for a folder.
        files: md5 by path from there, "" for a file itself.
    """

    md5: str
    files: dict[str, str]


class Records:
    """The outputs and dependencies of a project's stages, by path from its root."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.repo: Repo = project.repo
        self.outs: dict[str, Output] = {self.path(out): out for stage in project.stages for out in stage.outs}
        self._there: dict[str, Content | None] = {}

    def path(self, item: Output) -> str:
        return str(Path(item.fs_path).relative_to(self.project.root))

    def sources(self, stage: PipelineStage) -> Iterator[Output]:
        """Its dependencies that no stage makes."""
        return (dep for dep in self._files(stage) if not self.makers(self.path(dep)))

    def inputs(self, stage: PipelineStage) -> Iterator[Output]:
        """Its dependencies that stages make."""
        return (dep for dep in self._files(stage) if self.makers(self.path(dep)))

    def makers(self, path: str) -> list[str]:
        """The outputs that `path` is, is in, or holds."""
        asked = Path(path)
        return [out for out in self.outs if asked.is_relative_to(out) or Path(out).is_relative_to(path)]

    def recorded(self, out: str) -> Content | None:
        """What dvc.lock says of an output; None if it says nothing, or the list of a folder's files is nowhere."""
        info = self.outs[out].hash_info
        if not info:
            return None
        if not info.isdir:
            return Content(info.value, {"": info.value})
        there = self._in_workspace(out)
        if there is not None and there.md5 == info.value:
            return there
        try:
            return _content(Tree.load(self.repo.cache.local, info))
        except (FileNotFoundError, ValueError):
            return None

    def bytes_of(self, out: str, name: str) -> Path | None:
        """A file that holds the recorded bytes of `name` in the output `out`; not to be written to."""
        content = self.recorded(out)
        if content is None or name not in content.files:
            return None
        there = self._in_workspace(out)
        if there is not None and there.files.get(name) == content.files[name]:
            return self.project.root / out / name
        cached = Path(self.repo.cache.local.oid_to_path(content.files[name]))
        return cached if cached.is_file() else None

    def hashed(self, path: Path, whole: bool = True) -> Content | None:
        """What is at `path`, as DVC hashes it; None if nothing is there.

        Args:
            whole: False: without the files that the project's .dvcignore names.
        """
        if not path.exists():
            return None
        ignored = None if whole else self.repo.dvcignore
        cache = self.repo.cache.local
        _, _, found = build(cache, str(path), self.repo.fs, "md5", ignore=ignored, dry_run=True)
        return _content(found)

    def _in_workspace(self, out: str) -> Content | None:
        if out not in self._there:
            self._there[out] = self.hashed(self.project.root / out, whole=False)
        return self._there[out]

    @staticmethod
    def _files(stage: PipelineStage) -> Iterator[Output]:
        return (dep for dep in stage.deps if not isinstance(dep, ParamsDependency))


def _content(found: object) -> Content:
    if isinstance(found, Tree):
        return Content(str(found.hash_info.value), {"/".join(name): info.value for name, _, info in found})
    info = found.hash_info  # type: ignore[attr-defined]  # dvc_data.hashfile.obj.HashFile
    return Content(info.value, {"": info.value})
