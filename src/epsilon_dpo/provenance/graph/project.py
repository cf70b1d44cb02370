"""The project opened through DVC's Python API, without its lock, so that it can be asked while `dvc repro` runs."""

import functools
import json
import operator
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from dvc.dependency import ParamsDependency
from dvc.dvcfile import ProjectFile, load_file
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.stage import PipelineStage

from epsilon_dpo.pipeline.observability.errors import UserError, first_line
from epsilon_dpo.pipeline.stage.params import read_yaml

DVC_FILE = "dvc.yaml"
LOOKS, BETWEEN_S = 5, 0.1  # at a file that is being written


@dataclass(frozen=True)
class Project:
    """A project and the stages that one `dvc repro` visits.

    Attributes:
        root: its folder, the working folder.
        stages: those with a command, in the order of `dvc repro`; a stage's name is its `addressing`.
        files: the dvc.yaml of these stages, by path, each with its dvc.lock.
    """

    repo: Repo
    root: Path
    stages: list[PipelineStage]
    files: dict[str, ProjectFile]

    def locked(self, stage: PipelineStage) -> dict[str, Any] | None:
        """The entry of `stage` in dvc.lock; None if it has never run."""
        found: dict[str, Any] | None = self.files[stage.path].lockfile_contents.get("stages", {}).get(stage.name)
        return found

    def fresh(self, stage: PipelineStage) -> PipelineStage:
        """`stage` once more, with what dvc.lock says of it, to be changed in memory."""
        return self.files[stage.path].stages[stage.name]

    def gone(self) -> dict[str, list[str]]:
        """Stages of which dvc.lock has an entry and dvc.yaml has none, with the paths of their outputs; by their names,
        and those of another dvc.yaml than the root's by its path and their names, as DVC addresses them."""
        return {
            self._address(file, name): [str(Path(file.path).parent / out["path"]) for out in entry.get("outs", [])]
            for file in self.files.values()
            for name, entry in file.lockfile_contents.get("stages", {}).items()
            if name not in file.stages
        }

    def _address(self, file: ProjectFile, name: str) -> str:
        place = Path(file.path).relative_to(self.root)
        return name if place == Path(DVC_FILE) else f"{place}:{name}"


def is_removed(gone: str) -> bool:
    """Whether stage check removes the outputs of this stage of `Project.gone`: those of a run, none of external/."""
    return "@" in gone and ":" not in gone


def params_now(dep: ParamsDependency) -> dict[str, Any]:
    """What the params file holds now of the keys that `dep` declares (of all keys if it declares none), by dotted key.

    `ParamsDependency.read_params` reads the file again for each stage, which is most of a plan's time.

    Raises:
        UserError: the file is absent or is not YAML.
    """
    content = read_yaml(Path(dep.fs_path))
    found = {}
    for key in dep.params or content:
        with suppress(KeyError, TypeError):
            found[key] = functools.reduce(operator.getitem, key.split("."), content)
    return found


@contextmanager
def said_plainly() -> Iterator[None]:
    """What DVC cannot read becomes one sentence.

    Raises:
        UserError: dvc.yaml, dvc.lock or params.yaml is broken, or a target does not exist.
    """
    try:
        yield
    except DvcException as error:
        raise UserError(f"DVC cannot read this project: {first_line(error)}.") from None


def open_project(targets: Sequence[str] = ()) -> Project:
    """The project in the working folder, and the stages that `dvc repro TARGETS` would visit (none: all of dvc.yaml).

    Raises:
        UserError: this is not the root of a DVC project, or DVC cannot read it.
    """
    with said_plainly():
        repo = Repo(".")
        root = Path(repo.root_dir)
        if root != Path.cwd().resolve() or not Path(DVC_FILE).exists():
            raise UserError(f"{Path.cwd()} has no {DVC_FILE} of a DVC project: run from the project's root.")
        whole = [stage for stage in repo.index.stages if stage.path == str(root / DVC_FILE)]  # dvc.lock read once less
        order = plan_repro(get_active_graph(repo.index.graph), collect_stages(repo, targets) if targets else whole)
        stages = [stage for stage in order if isinstance(stage, PipelineStage)]
        files = {path: load_file(repo, path) for path in {stage.path for stage in stages}}
        return Project(repo, root, stages, files)


def at_work(repo: Repo) -> str | None:
    """The command of another DVC process that writes outputs of this project now, as DVC's own lock file names it."""
    for _ in range(LOOKS):
        try:
            writers = json.loads((Path(repo.tmp_dir) / "rwlock").read_text("utf-8")).get("write", {}).values()
        except OSError:
            return None
        except ValueError:  # DVC writes it in place; what a kill cut off stays so, and DVC itself refuses it
            time.sleep(BETWEEN_S)
        else:
            return next((f"{who['cmd']}, PID {who['pid']}" for who in writers if psutil.pid_exists(who["pid"])), None)
    return None
