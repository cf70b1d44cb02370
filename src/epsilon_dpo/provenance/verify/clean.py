"""A folder with the project's files and nothing computed, in which a stage runs as `dvc repro` would run it.

A stage finds the inputs that dvc.lock records: those that were made again here to the same bytes, else copies of the
recorded ones. So each stage is judged for itself, and where all are bit-equal so is the pipeline, from its sources on.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dvc.dependency import ParamsDependency
from dvc.output import Output
from dvc.stage import PipelineStage
from dvc_objects.fs.generic import transfer
from dvc_objects.fs.local import localfs

from epsilon_dpo.pipeline.observability.errors import redacted
from epsilon_dpo.pipeline.stage.manifest import file_md5
from epsilon_dpo.provenance.verify.certificate import FOLDER
from epsilon_dpo.provenance.verify.recorded import Content, Records

PAID = Path("cache")  # a judge's replies: asked again, they would cost again and might be others
DIFFERENT_OUTPUTS = "different"  # in the folder: those that are not as recorded, whose places the recorded ones take
LOCK = "dvc.lock"  # stage check would tidy it


@dataclass(frozen=True)
class Ran:
    """One execution.

    Attributes:
        failed: what it said last before it ended with another code than 0; None: it succeeded.
    """

    seconds: float
    failed: str | None


class CleanFolder:
    """The folder, filled with the project's files."""

    def __init__(self, folder: Path, records: Records, stages: list[PipelineStage]) -> None:
        self.folder = folder
        self.records = records
        self._as_recorded: set[str] = set()  # outputs that are here, byte for byte
        root = records.project.root
        files = set(self._project_files(root))
        for dep in (dep for stage in stages for dep in records.sources(stage)):
            files |= self._below(Path(dep.fs_path))
        files |= {file for file in (root / PAID).rglob("*") if file.is_file()}
        for file in sorted(files):
            name = str(file.relative_to(root))
            if not records.makers(name) and name != LOCK:
                _copy(file, folder / name)

    def prepare(self, stage: PipelineStage) -> str | None:
        """Put the recorded inputs of `stage` in their places; returns why it cannot be run again, if it cannot."""
        records = self.records
        if records.project.locked(stage) is None:
            return "dvc.lock has no result of it; run `dvc repro`"
        if stage.changed_stage():
            return "its command is not the one that dvc.lock records; run `dvc repro`"
        params = (dep for dep in stage.deps if isinstance(dep, ParamsDependency))
        changed = [_named(status) for dep in (*records.sources(stage), *params) if (status := dep.workspace_status())]
        if changed:  # certificates/ last: if nothing else has changed, the report is only behind (verify.py)
            first = min(changed, key=lambda name: name == str(FOLDER))
            return f"{first} changed after dvc.lock recorded its result; run `dvc repro`"
        return next(filter(None, map(self._place, records.inputs(stage))), None)

    def _place(self, dep: Output) -> str | None:
        """Put the recorded bytes of an input in their place; returns why they cannot be put there, if they cannot."""
        records, path, md5 = self.records, self.records.path(dep), dep.hash_info.value
        lost = [out for out in records.makers(path) if not self._restore(out)]
        if lost:
            return f"neither the workspace nor DVC's cache has its input {lost[0]} as recorded; try `dvc pull`"
        for file in self._below(Path(dep.fs_path)):  # DVC hashes its own .gitignore with a folder of outputs
            name = str(file.relative_to(records.project.root))
            if not records.makers(name):
                _copy(file, self.folder / name)
        here = records.hashed(self.folder / path)
        if here is not None and here.md5 == md5:
            return None
        output = records.recorded(path) if path in records.outs else None
        if output is None or output.md5 != md5:
            return f"dvc.lock records {path} with one hash as an output and another as an input; run `dvc repro`"
        files = {records.bytes_of(path, name): own for name, own in output.files.items()}
        bad = next((file for file, own in files.items() if file and file_md5(file) != own), path)
        return f"what DVC's cache has of its input {path} is damaged: remove {bad} and run `dvc fetch`"

    def run(self, stage: PipelineStage, variables: Mapping[str, str | None]) -> Ran:
        """Run its command, as DVC does, with another MLflow store than the project's.

        Args:
            variables: of the environment, to set or (None) to take away.
        """
        for out in self._outs(stage):
            _remove(self.folder / out)
            (self.folder / out).parent.mkdir(parents=True, exist_ok=True)
        root = self.records.project.root
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_TRACKING_", "DVC_"))}
        env |= {"DVC_ROOT": str(self.folder), "DVC_STAGE": stage.addressing}
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])  # whose packages we name
        env = {name: value for name, value in {**env, **variables}.items() if value is not None}
        commands = [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd
        cwd, started = self.folder / Path(stage.wdir).relative_to(root), time.monotonic()
        for command in commands:
            done = subprocess.run(
                command, shell=True, cwd=cwd, env=env, capture_output=True, text=True, errors="replace", check=False
            )
            if done.returncode:
                said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
                return Ran(time.monotonic() - started, redacted(said[-1]))
        return Ran(time.monotonic() - started, None)

    def outputs(self, stage: PipelineStage) -> dict[str, Content | None]:
        """What the last run left, by the output's path."""
        return {out: self.records.hashed(self.folder / out) for out in self._outs(stage)}

    def keep(self, stage: PipelineStage, bit_equal: bool) -> None:
        """Let what follows read the outputs of `stage`; those that are not bit-equal go to DIFFERENT_OUTPUTS."""
        for out in self._outs(stage):
            if bit_equal:
                self._as_recorded.add(out)
            elif (self.folder / out).exists():
                (self.folder / DIFFERENT_OUTPUTS / out).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / out).rename(self.folder / DIFFERENT_OUTPUTS / out)

    def _restore(self, out: str) -> bool:
        """Have the recorded bytes of `out` here; False if they are nowhere."""
        if out in self._as_recorded:
            return True
        content = self.records.recorded(out)
        files = {name: self.records.bytes_of(out, name) for name in content.files} if content else {}
        if not files or None in files.values():
            return False
        _remove(self.folder / out)
        for name, file in files.items():
            assert file is not None
            _copy(file, self.folder / out / name if name else self.folder / out)
        self._as_recorded.add(out)
        return True

    def _outs(self, stage: PipelineStage) -> list[str]:
        return [self.records.path(out) for out in stage.outs]

    def _below(self, path: Path) -> set[Path]:
        """The files that DVC sees at `path`."""
        repo = self.records.repo
        if path.is_file():
            return {path}
        found = repo.dvcignore.walk(repo.fs, str(path)) if path.is_dir() else ()
        return {Path(folder, name) for folder, _, names in found for name in names}

    def _project_files(self, root: Path) -> Iterator[Path]:
        """What git tracks or would; without a repository, what DVC sees."""
        command = ["git", "-C", str(root), "ls-files", "-coz", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, check=False)
        if listed.returncode:
            yield from self._below(root)
        names = map(os.fsdecode, filter(None, listed.stdout.split(b"\0")))
        yield from (root / name for name in names if (root / name).is_file())


def _copy(file: Path, to: Path) -> None:
    """A copy that shares its blocks with the original where the file system can; never a link to the same bytes."""
    to.parent.mkdir(parents=True, exist_ok=True)
    transfer(localfs, str(file), localfs, str(to), links=["reflink", "copy"])


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _named(changed: dict) -> str:
    """The files, or keys of params.yaml, of DVC's `workspace_status`."""
    return (
        ", ".join(f"{key} of {name}" for name, keys in changed.items() for key in keys)
        if all(isinstance(keys, dict) for keys in changed.values())
        else ", ".join(map(str, changed))
    )
