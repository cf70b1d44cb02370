"""What the next `dvc repro` would do with each stage, decided in its order."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.output import Output
from dvc.stage import PipelineStage
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta

from epsilon_dpo.pipeline.stage.params import PARAMS_FILE, read_yaml
from epsilon_dpo.provenance.graph.project import Project, is_removed, open_project, params_now, said_plainly
from epsilon_dpo.provenance.plan.amounts import seconds_of_stages
from epsilon_dpo.provenance.plan.causes import Cause, Causes
from epsilon_dpo.provenance.plan.outputs import Expected, Outputs

RUN, MAY_RUN, FROM_CACHE, UP_TO_DATE = "run", "may run", "from cache", "up to date"
Hashes = dict[str, HashInfo]  # by path of an output


@dataclass(frozen=True)
class Step:
    """One stage.

    Attributes:
        action: RUN has causes of its own; MAY_RUN has none, but reads what earlier stages will have made anew, and DVC
            skips it if that keeps its bytes; FROM_CACHE has causes, and DVC has the result of an earlier run.
        causes: why, by itself.
        after: the first stages to run that it waits for; the run cache cannot be asked before they are done.
        keeps: whether its output will have the bytes that dvc.lock records.
        seconds, size: of its last run, and of its outputs (bytes) in dvc.lock; None if nobody knows.
        like: the stage whose last run these two are of, where this one has had none.
    """

    name: str
    action: str
    causes: tuple[Cause, ...]
    after: tuple[str, ...]
    keeps: bool
    seconds: float | None
    size: int | None
    like: str

    @property
    def acceptable(self) -> bool:
        """Whether it would run for edits alone that cannot change its result."""
        return self.action == RUN and not self.after and all(cause.harmless for cause in self.causes)


def planned(targets: Sequence[str] = ()) -> tuple[Project, list[Step]]:
    """The project in the working folder, and a step for each stage that `dvc repro TARGETS` would visit, in its order.

    Raises:
        UserError: params.yaml or the project cannot be read, or a file that a stage imports is not valid Python.
    """
    if PARAMS_FILE.exists():
        read_yaml(PARAMS_FILE)  # first, because DVC does not name the line that is broken
    project = open_project(targets)
    with said_plainly():
        planner = Planner(project)
        for stage in project.stages:
            planner.visit(stage)
    return project, planner.steps


class Planner:
    """Visits stages in order; what it found of one decides about those that read its outputs."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.steps: list[Step] = []
        gone = (outs for name, outs in project.gone().items() if is_removed(name))
        self.outputs = Outputs(project.repo, itertools.chain(*gone))
        self.causes = Causes(project)
        self.params: dict[str, Any] = read_yaml(PARAMS_FILE)
        self.seconds = seconds_of_stages(project.root)
        self._roots: dict[str, tuple[str, ...]] = {}

    def visit(self, stage: PipelineStage) -> None:
        expected = {
            dep.fs_path: self.outputs.expected(dep) for dep in stage.deps if not isinstance(dep, ParamsDependency)
        }
        waits_for = () if stage.frozen else [name for part in expected.values() for name in part.waits_for]
        after = tuple(dict.fromkeys(root for name in waits_for for root in self._roots[name]))
        causes = self.causes.of(stage, expected)
        hashes: Hashes | None = _hashes(stage)
        keeps, action = True, UP_TO_DATE
        if causes and not after and (found := self._from_cache(stage, causes, expected)):
            action, keeps, hashes = FROM_CACHE, found == hashes, found
        elif causes or after:
            action = RUN if causes else MAY_RUN
            keeps = self._keeps(stage, causes, after)
            hashes = hashes if keeps else None
        self.outputs.add(stage, hashes)
        self._roots[stage.addressing] = after or (stage.addressing,)
        self.steps.append(Step(stage.addressing, action, tuple(causes), after, keeps, *self._last(stage)))

    def _from_cache(self, stage: PipelineStage, causes: list[Cause], expected: dict[str, Expected]) -> Hashes | None:
        """What DVC would put in the place of the outputs without running the stage; None if it has to run.

        DVC looks for the outputs of dvc.lock, if nothing else changed, and else for an earlier run with the same
        command, dependencies and params. `StageCache.restore(dry=True)` looks for dvc.lock's dependencies, not those of
        now, and does not say what it would restore.
        """
        if stage.always_changed or any(out.persist for out in stage.outs):
            return None  # of these DVC has no run cache
        if all(cause.kind == "output" for cause in causes):
            return None if any(out.changed_cache() for out in stage.outs) else _hashes(stage)
        again = self.project.fresh(stage)
        for dep in again.deps:
            if isinstance(dep, ParamsDependency):
                values = params_now(dep)
                if set(dep.params) - values.keys():
                    return None
                _as_it_will_be(dep, HashInfo(ParamsDependency.PARAM_PARAMS, values), Meta())  # type: ignore[arg-type]
            elif expected[dep.fs_path].hash_info is None:
                return None
            else:
                _as_it_will_be(dep, expected[dep.fs_path].hash_info, expected[dep.fs_path].meta)
        cache = self.project.repo.stage_cache
        entry = cache._load(again)
        if not entry:
            return None
        made = cache._create_stage(entry, wdir=again.wdir)
        return _hashes(made) if made.outs_cached() else None

    def _keeps(self, stage: PipelineStage, causes: list[Cause], after: tuple[str, ...]) -> bool:
        """Whether a run would leave the outputs that dvc.lock records.

        Either no edit can change the result, or dvc.yaml says in `meta` that it is constant, always or while a key of
        params.yaml is null. The stage's own code, which bears its name, and that key make it so; an edit may end it.
        """
        if not all(map(self._is_known, stage.outs)):
            return False
        if not after and all(cause.harmless for cause in causes):
            return True
        meta = stage.meta or {}
        key = meta.get("constant_while_null")
        is_constant = meta.get("constant") or (key is not None and self.params.get(key) is None)
        return bool(is_constant) and not any(_may_vary_after(cause, stage, key) for cause in causes)

    def _is_known(self, out: Output) -> bool:
        """Whether somebody knows what `out` held: it is there, it is one file, whose hash says enough, or DVC's cache
        has the list of its files."""
        if not out.hash_info:
            return False
        return out.hash_info == self.outputs.now(out) or not (out.hash_info.isdir and out.changed_cache())

    def _last(self, stage: PipelineStage) -> tuple[float | None, int | None, str]:
        """Seconds and bytes of the stage's last run, or of the last run of the same stage for another of `runs`."""
        group = stage.name.partition("@")[0] + "@"
        others = [other for other in self.project.stages if other.name.startswith(group)] if "@" in stage.name else []
        for like in [stage, *others]:
            sizes = [out.meta.size for out in like.outs if out.hash_info]
            if sizes and None not in sizes:
                return self.seconds.get(like.name), sum(sizes), "" if like is stage else like.addressing
        return self.seconds.get(stage.name), None, ""


def _may_vary_after(cause: Cause, stage: PipelineStage, key: str | None) -> bool:
    """Whether the output of `stage`, constant so far (while `key` is null), may not be so after `cause`."""
    if cause.harmless:
        return False
    if cause.kind == "param":
        return cause.what.partition(".")[0] == key
    if cause.kind in ("file", "folder"):
        return stage.name.partition("@")[0] in PurePath(cause.what).with_suffix("").parts
    return cause.kind in ("command", "always")


def _hashes(stage: PipelineStage) -> Hashes:
    """Those that DVC has of its outputs."""
    return {out.fs_path: out.hash_info for out in stage.outs}


def _as_it_will_be(dep: Output, hash_info: HashInfo | None, meta: Meta) -> None:
    """Let DVC take `hash_info` for the hash of `dep`, whatever lies on the disk now and without a look at it."""
    dep.hash_info, dep.meta = hash_info, meta
    dep.get_hash = lambda: hash_info
