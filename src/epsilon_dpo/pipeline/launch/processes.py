"""A part of a stage in the processes of a launcher (launcher.py), or without one in this process.

The stage starts `accelerate launch` on worker.py and waits. Everything goes through a folder: the function and its
arguments, the metrics that rank 0 logs, what each rank returns, or the one sentence with which one refuses. A rank that
dies ends all others, and the stage, at once; ranks end when the stage does, however that ends.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from epsilon_dpo.pipeline.launch.launcher import Launcher, launcher
from epsilon_dpo.pipeline.launch.worker import REFUSED, REQUEST, TRACKED, Part, Track
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.execution import PART
from epsilon_dpo.pipeline.stage.files import Json, read_json, write_json
from epsilon_dpo.pipeline.stage.fingerprint import scratch_root
from epsilon_dpo.pipeline.stage.gpus import environment_of_all_gpus, take_free_gpus

PREFIX = "EPSILON_DPO_LAUNCH_PREFIX"  # of `accelerate launch`: what starts it on all machines, such as srun
POLL_S = 0.1
GRACE_S = 5.0  # between asking a process to end and ending it


def run_part(part: Part, arguments: Json, track: Track) -> list[Any]:
    """What `part`(arguments, track) returns, of each process in the order of their ranks.

    Args:
        part: a function at the top of a module; what it takes and returns is JSON.
        track: receives what rank 0 tracks.

    Raises:
        UserError: a process raised one, or the launcher cannot be used.
    """
    chosen = launcher()
    if chosen is None:
        return [part(arguments, track)]
    take_free_gpus(chosen.here)
    place = _meeting_place(chosen)
    # Whose removal may fail: what is ended on another machine writes there for a moment more.
    with tempfile.TemporaryDirectory(prefix="launch-", dir=place, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        stage = {"stage": os.getpid(), "host": socket.gethostname()}
        write_json(folder / REQUEST, {"part": _name(part), "arguments": arguments, **stage})
        environment = environment_of_all_gpus() | {PART: "1"}
        process = subprocess.Popen(_command(chosen, folder), start_new_session=True, env=environment)
        try:
            code = _wait(process, folder, _Tracked(folder / TRACKED, track))
        finally:
            _end(process)
        if code:
            raise UserError(
                f"one of the {chosen.processes} processes of {chosen.file} ended with an error (see above); what was "
                "finished is kept, and `dvc repro` resumes from it."
            )
        # By their names: a network's file system may list a folder as it was, without what another machine has written.
        return [read_json(folder / f"result-{rank}.json") for rank in range(chosen.processes)]


def take_gpus_of_launcher() -> None:
    """As run_part does, for a stage that computes by itself before it: that would take one GPU for good."""
    if (chosen := launcher()) is not None:
        take_free_gpus(chosen.here)


def _meeting_place(chosen: Launcher) -> Path | None:
    """A folder that all machines see; None: this machine's own will do."""
    if chosen.processes == chosen.here:
        return None
    scratch_root().mkdir(exist_ok=True)
    return scratch_root().absolute()


def _name(part: Part) -> str:
    module = sys.modules[part.__module__]
    spec = module.__spec__  # a stage is __main__, and worker.py imports it by its own name
    return f"{part.__module__ if spec is None else spec.name}:{part.__name__}"


def _command(chosen: Launcher, folder: Path) -> list[str]:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(chosen.file)]
    if chosen.port is None and chosen.processes == chosen.here:
        launch += ["--main_process_port", "0"]  # any: stages run side by side
    if chosen.processes != chosen.here:
        launch += ["--rdzv_backend", "c10d"]  # which accelerate does not read in its config file: no rank is stated
    prefix = shlex.split(os.environ.get(PREFIX, ""))
    return [*prefix, *launch, "-m", "epsilon_dpo.pipeline.launch.worker", str(folder)]


class _Tracked:
    """Hands on what rank 0 has written since the last look."""

    def __init__(self, file: Path, track: Track) -> None:
        self.file, self.track, self.read = file, track, 0

    def look(self) -> None:
        if not self.file.exists():
            return
        with self.file.open("rb") as opened:
            opened.seek(self.read)
            for line in opened:
                if not line.endswith(b"\n"):
                    return  # rank 0 is writing it: its end would be the next line here
                self.read += len(line)
                metrics, step = json.loads(line)
                self.track(metrics, step)


def _wait(process: "subprocess.Popen[bytes]", folder: Path, tracked: _Tracked) -> int:
    """The exit code of the launcher.

    Raises:
        UserError: a rank refused; nobody waits for the others, nor for the launcher's long report of it.
    """
    while True:
        code = process.poll()
        tracked.look()  # after it has been asked: then nothing is written that this does not see
        if (folder / REFUSED).exists():
            raise UserError((folder / REFUSED).read_text("utf-8"))
        if code is not None:
            return code
        time.sleep(POLL_S)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the launcher and its ranks, each of which leads a session of its own. What started ranks on other machines is
    asked to end them before it is killed."""
    if process.poll() is None and os.environ.get(PREFIX):
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    with suppress(psutil.NoSuchProcess):
        launched = psutil.Process(process.pid)
        ranks = launched.children(recursive=True)
        for one in (launched, *ranks):  # the launcher first: it would write a report about its ranks
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(ranks, timeout=GRACE_S)
    process.wait()
