"""Why DVC would run a stage: every difference between dvc.lock and now, to the key of params.yaml and the file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.output import Output
from dvc.stage import PipelineStage

from epsilon_dpo.judging.scorer.code import ONLINE
from epsilon_dpo.pipeline.code.imports import closure, code_of
from epsilon_dpo.pipeline.stage.params import PARAMS_FILE
from epsilon_dpo.provenance.graph.project import DVC_FILE, Project, params_now
from epsilon_dpo.provenance.plan.amounts import size_text
from epsilon_dpo.provenance.plan.outputs import Expected
from epsilon_dpo.provenance.plan.versions import FileChange, Versions

METHODS = "src/epsilon_dpo/methods"  # whose registry loads each of them by its name
VALUE_CHARACTERS = 40
ABSENT = object()


@dataclass(frozen=True)
class Cause:
    """One reason to run a stage.

    Attributes:
        kind: new, command, always, param, file, folder, missing, read (what an earlier stage made) or output.
        what: the key of params.yaml or the path; empty for the first three.
        text: of what, as a phrase.
        harmless: whether the stage's result cannot depend on it.
    """

    kind: str
    what: str
    text: str
    harmless: bool = False


class Causes:
    """Finds the causes of a project's stages."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.versions = Versions(project.repo)
        self._imports: dict[Path, set[str]] = {}

    def of(self, stage: PipelineStage, expected: dict[str, Expected]) -> list[Cause]:
        """All causes of `stage` itself; what it waits for is none.

        Args:
            expected: of each dependency but params, by its path.

        Raises:
            UserError: a file that the stage imports is not valid Python.
        """
        locked = self.project.locked(stage)
        if locked is None:
            return [Cause("new", "", "new: dvc.lock does not have it")]
        found = []
        if stage.cmd_changed:
            found.append(Cause("command", "", f"its command: {locked.get('cmd')} → {stage.cmd}"))
        if stage.always_changed or stage.is_callback:
            found.append(Cause("always", "", f"{DVC_FILE} says that it always runs"))
        for dep in [] if stage.frozen else stage.deps:
            if isinstance(dep, ParamsDependency):
                found += _params(dep)
            elif not expected[dep.fs_path].waits_for:
                found += self._dependency(stage, dep, expected[dep.fs_path])
        return found + [cause for out in stage.outs for cause in self._output(out)]

    def _dependency(self, stage: PipelineStage, dep: Output, expected: Expected) -> list[Cause]:
        if not dep.hash_info:
            return [Cause("missing", str(dep), f"{dep} is a new dependency")]
        if expected.hash_info is None:
            return [Cause("missing", str(dep), f"{dep} is missing")]
        if expected.hash_info == dep.hash_info:
            return []
        if expected.computed:
            return [Cause("read", str(dep), f"{dep} will have other bytes")]
        changes = self.versions.changes(dep)
        if changes is None:
            return [_unknown(dep)]
        return [self._file(stage, change) for change in changes]

    def _file(self, stage: PipelineStage, change: FileChange) -> Cause:
        why = self._why_harmless(stage, change)
        text = f"{change.path} {change.how}{why or ''}"
        return Cause("file", change.path, text, harmless=why is not None)

    def _why_harmless(self, stage: PipelineStage, change: FileChange) -> str | None:
        """Why the result of `stage` cannot depend on `change`; None if it can."""
        file = self.project.root / change.path
        if file.suffix != ".py" or change.how == "removed":
            return None
        is_init = file.name == "__init__.py"  # which no import names, and tests hold it to be without code
        needed = self._needed(stage)
        if needed and change.path not in needed and not is_init:
            return ", but it does not import that"
        before = "" if is_init and change.how == "added" else change.before
        if before is not None and code_of(before, change.path) == code_of(file.read_text("utf-8"), change.path):
            return " in comments, docstrings or layout only"
        return None

    def _needed(self, stage: PipelineStage) -> set[str]:
        """The project files that the stage's script, the Python files among its dependencies and ONLINE import; none if
        it has no script where this project keeps them."""
        root = self.project.root
        name = stage.name.partition("@")[0]
        script = root / "stages" / f"{name}.py" if Path(stage.wdir) == root else Path(stage.wdir) / f"{name}.py"
        if not script.is_file():
            return set()
        needed = set()
        by_name = [root / ONLINE] if name == "align" else []
        for start in {script, *by_name, *(Path(dep.fs_path) for dep in stage.deps if dep.fs_path.endswith(".py"))}:
            if start.is_file() and start not in self._imports:
                self._imports[start] = {str(file.relative_to(root)) for file in closure(start, root)}
            needed |= self._imports.get(start, set())
        if f"{METHODS}/registry.py" in needed:
            needed |= {f"{METHODS}/{file.name}" for file in (root / METHODS).glob("*.py")}
        return needed

    def _output(self, out: Output) -> Iterator[Cause]:
        (state,) = out.status().values() or [""]
        changed = self.versions.by_hand(out) if state == "modified" else []
        if changed:
            yield from (
                Cause("output", file.path, f"{file.path}, its output, {file.how}: your change is lost")
                for file in changed
            )
        elif state:
            said = {"deleted": "is missing", "modified": "changed", "not in cache": "is not in DVC's cache"}
            yield Cause("output", str(out), f"its output {said.get(state, state)}")


def _unknown(dep: Output) -> Cause:
    """A source changed and git cannot say in what."""
    if not dep.isdir():
        return Cause("file", str(dep), f"{dep} changed")
    before, now = dep.meta, dep.get_meta()
    sizes = [f"{meta.nfiles} files of {size_text(meta.size or 0)}" for meta in (before, now)]
    return Cause("folder", str(dep), f"{dep}: {' → '.join(sizes)} (git does not know what it held)")


def _params(dep: ParamsDependency) -> Iterator[Cause]:
    """One cause per value that differs, by its full dotted key."""
    before, now = dep.hash_info.value or {}, params_now(dep)
    where = "" if str(dep) == str(PARAMS_FILE) else f"{dep}: "
    for key in dep.params or sorted({*before, *now}):
        for path, old, new in _leaves(key, before.get(key, ABSENT), now.get(key, ABSENT)):
            if old is ABSENT:
                text = "is new" if isinstance(new, dict) else f"is new: {_short(new)}"
            else:
                text = "is gone" if new is ABSENT else f"{_short(old)} → {_short(new)}"
            colon = ":" if not where and "→" in text else ""
            yield Cause("param", path, f"{where}{path}{colon} {text}")


def _leaves(key: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """The keys at which two values differ, as deep as both have blocks."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from _leaves(f"{key}.{name}", old.get(name, ABSENT), new.get(name, ABSENT))
    elif old is ABSENT or new is ABSENT or old != new:
        yield key, old, new


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…"
