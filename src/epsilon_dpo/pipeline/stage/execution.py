"""What every stage does around its one call: check, announce, track, write complete folders, fail in one sentence."""

import gc
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import epsilon_dpo
from epsilon_dpo.pipeline.observability.errors import UserError, discard_stdout, let_stdout_take_all
from epsilon_dpo.pipeline.observability.tracker import Tracker, start_early
from epsilon_dpo.pipeline.stage.disk import disk_in_a_sentence
from epsilon_dpo.pipeline.stage.files import Json, atomic_folder
from epsilon_dpo.pipeline.stage.fingerprint import Inputs, stage_entry
from epsilon_dpo.pipeline.stage.forks import leave_server
from epsilon_dpo.pipeline.stage.gpus import choose_before_imports
from epsilon_dpo.pipeline.stage.journal import Journal
from epsilon_dpo.pipeline.stage.lifetime import dvc_above, end_with_dvc
from epsilon_dpo.pipeline.stage.manifest import write_manifest
from epsilon_dpo.pipeline.stage.pins import require_pins
from epsilon_dpo.pipeline.stage.variables import add_up_in_one_thread, let_params_decide, under_this_processor
from epsilon_dpo.pipeline.stage.workplace import workplace

PART = "EPSILON_DPO_PART"  # said to the processes of a launcher: they do a part of a stage


@dataclass
class Stage:
    """One execution of a stage.

    Attributes:
        out: folder to write to; becomes out/<stage>[/<key>] when the stage succeeds, vanishes when it fails.
        apart: the same, of what dvc.yaml has elsewhere, too (out/align/metrics/<key>, out/teacher); else `out`.
        scratch: folder that survives a crash and is removed on success; not created until somebody writes there.
        journal: finished batches, kept in scratch.
        tracker: the MLflow run of this execution.
        params: the declared params, by dotted key.
        summary: one line for the terminal, set by the stage: its most important metric.
    """

    name: str
    out: Path
    apart: Path
    scratch: Path
    journal: Journal
    tracker: Tracker
    params: Json
    summary: str = ""

    @property
    def folders(self) -> Json:
        """Where a part of this execution that runs in other processes writes."""
        return {"out": str(self.out), "scratch": str(self.scratch)}

    def write_manifest(self, folder: Path, **content: Any) -> None:
        """Let the model in `folder` say where it comes from; `content` as of manifest.write_manifest."""
        write_manifest(folder, self.name, self.params, **content)


@contextmanager
def heavy_imports(computes: bool = False) -> Iterator[None]:
    """Around the imports of a stage that take seconds: MLflow is imported beside them, and the garbage collector rests.

    What a library makes on import stays to the end, so walking over it again and again, at the end once more, is in
    vain: it took 3 of the 8 CPU s of a stage that imports torch and transformers.

    In a launcher's process, which imports the stage for a part of it, the stage itself has done the rest.

    Args:
        computes: it calls set_up, and so may need a GPU, which must be chosen before a library asks CUDA.
    """
    if PART in os.environ:
        yield
        return
    let_params_decide()  # libraries read some of it when they are imported
    if computes:
        choose_before_imports()
    start_early(dvc_above())
    end_with_dvc()
    gc.disable()
    try:
        yield
    except KeyboardInterrupt:
        _end_interrupted(os.environ.get("DVC_STAGE", Path(sys.argv[0]).stem))
    finally:
        gc.freeze()
        gc.enable()
    leave_server()


@contextmanager
def run_stage(stage: str, key: str | None = None) -> Iterator[Stage]:
    """Run the block as `stage` (of run `key`): outputs appear complete or not at all, the MLflow run is always closed.

    What the stage is made from must be the same when the block ends: Inputs.require_unchanged.

    While it runs, a second execution of it is refused; it ends if the `dvc` that started it ends.

    A `UserError`, and a disk that takes no more, becomes one line on stderr and exit code 1, Ctrl-C one and exit code
    130; any other exception keeps its traceback.
    """
    let_stdout_take_all()
    let_params_decide()
    add_up_in_one_thread()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    name = stage if key is None else f"{stage}@{key}"
    started = time.monotonic()
    try:
        _refuse_several_processes()
        _refuse_other_code()
        end_with_dvc()
        entry = stage_entry(stage, key)
        require_pins(entry)
        with disk_in_a_sentence(), workplace(name) as place:
            inputs = Inputs(stage, key, entry)
            target = Path("out", stage, key or "")
            elsewhere = _outputs_elsewhere(entry, target)
            partial = place.partial.with_name(f"{place.partial.name}-apart")
            start_early(dvc_above())
            with (
                Tracker(name, inputs.fingerprint, inputs.params, inputs.deps, [target, *elsewhere]) as tracker,
                atomic_folder(target, place.partial) as out,
                atomic_folder(elsewhere[0], partial) if elsewhere else nullcontext(out) as apart,
            ):
                scratch = place.scratch(under_this_processor(inputs.fingerprint))
                execution = Stage(name, out, apart, scratch, Journal(scratch), tracker, inputs.params)
                with disk_in_a_sentence(), closing(execution.journal):  # before what fills the disk is removed
                    yield execution
                inputs.require_unchanged()
            place.clear(execution.scratch)
    except UserError as error:
        sys.exit(f"ERROR in stage {name}: {error}")
    except FileNotFoundError as error:
        if (missing := _missing_output(error)) is None:
            raise
        sys.exit(f"ERROR in stage {name}: {missing}")
    except KeyboardInterrupt:
        _end_interrupted(name)
    try:
        print(f"{name:<24} {time.monotonic() - started:6.1f} s   {execution.summary}", flush=True)
    except OSError:  # `| head` has read enough, or the disk of a log is full: the result stands, and DVC must record it
        discard_stdout()


def _outputs_elsewhere(entry: Json, target: Path) -> list[Path]:
    """The outputs of `entry` that do not lie in `target`: one at most."""
    outs = [Path(*out) if isinstance(out, dict) else Path(out) for out in entry.get("outs", [])]
    return [out for out in outs if not out.is_relative_to(target)]


def _end_interrupted(name: str) -> NoReturn:
    print(f"stage {name} was interrupted; what it finished is kept, and a rerun resumes from it.", file=sys.stderr)
    sys.exit(128 + signal.SIGINT)


def _missing_output(error: FileNotFoundError) -> str | None:
    """What to do where a part of a folder that the stage depends on is absent, as in a clone that pulled only some."""
    file = Path(str(error.filename))
    if file.parts[:1] != ("out",) or file.parent.exists():
        return None
    return (
        f'{error.filename} is not here: `dvc pull` fetches what the remote has (docs/dvc.md, "Sharing results"), '
        "`dvc repro` makes the rest."
    )


def _refuse_several_processes() -> None:
    """Each process would replace the others' output folder.

    Raises:
        UserError: the stage was started by torchrun or accelerate as one of several processes.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise UserError(
            f"this is one of {processes} processes and a stage runs as one; start it with `dvc repro` (and without "
            "WORLD_SIZE in the environment), and use several GPUs by running stages side by side: "
            "CUDA_VISIBLE_DEVICES=0 dvc --wait-for-lock repro -s align@RUN."
        )


def _refuse_other_code() -> None:
    """DVC hashes the code of the project it works in, which for an experiment in a folder of its own is a copy.

    Raises:
        UserError: the package that runs is another project's.
    """
    here = Path.cwd().resolve()
    source = next((place / "src" for place in [here, *here.parents] if (place / "src" / "epsilon_dpo").is_dir()), None)
    running = Path(str(epsilon_dpo.__file__)).resolve()
    if source is not None and not running.is_relative_to(source.resolve()):
        raise UserError(
            f"the code that runs is {running.parent} and the code that DVC hashes is {source / 'epsilon_dpo'}, so the "
            f"result would be recorded for code that did not make it; put the project's own first: "
            f"export PYTHONPATH={os.path.relpath(source)}"
        )


def run_argument() -> str:
    """The run that the command line names, else the one of the stage that DVC is running (`align@dpo`, after a colon
    `external/dvc.yaml:answers@sft`), else empty, which `run_stage` answers.

    Nothing in dvc.yaml writes a run's name into a command: it comes from params.yaml, and a shell would execute it.
    """
    if len(sys.argv) > 1:
        return sys.argv[1]
    return os.environ.get("DVC_STAGE", "").rpartition(":")[2].partition("@")[2]
