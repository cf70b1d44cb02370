"""One stage with nothing under out/ but its declared dependencies, and which of these it read.

`deps` name code, which the import closure proves, and data, which only running the stage can: what it does not declare
is absent here, so reading it fails or changes the output; what it declares and never opens is reported. The code that
dvc.yaml leaves out of `deps` by name (closure.EXEMPT) is replaced by code that does nothing, so that an output which
depends on it would differ too.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from closure import EXEMPT
from ruamel.yaml import YAML
from whole_pipeline import BIN, NOBODY

from epsilon_dpo.pipeline.stage.params import read_yaml

LOCAL = ("data", "certificates", "study/verdicts.json")  # a project's own files, if it has any
# Declared by every stage here and read by none: it shows that hashing a dependency does not count as reading it.
DECOY = "out/decoy"
# Runs in every Python process of a stage, its sampling workers included. What safetensors and tokenizers open in Rust
# raises no event, but there is no folder of theirs of which Python opens nothing. The fingerprint opens every declared
# path (`dependencies`), and MLflow's process is no part of the stage: neither counts.
WATCH = """
import os, sys

log = os.open(os.environ["READ_UNDER_OUT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
out = os.path.abspath("out") + os.sep
tracking = any("mlflow_writer" in argument for argument in sys.orig_argv)


def watch(event, arguments):
    if event != "open" or tracking or not isinstance(arguments[0], (str, bytes)):
        return
    path = os.path.abspath(os.fsdecode(arguments[0]))
    if not path.startswith(out) or arguments[2] & os.O_ACCMODE != os.O_RDONLY:
        return
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "dependencies":
            return
        frame = frame.f_back
    os.write(log, (os.path.relpath(path) + "\\n").encode())


sys.addaudithook(watch)
"""


# A process that has imported what takes a stage seconds, and nothing of the project. For each line of its stdin it
# forks a stage as `python -m` would start it, and answers with the exit code.
FORKS = """
import gc, json, os, runpy, sys
from pathlib import Path

import datasets, pandas, peft, scipy.special, torch
from transformers import AutoModelForCausalLM, Gemma2ForCausalLM, Trainer
from trl import RewardTrainer, SFTTrainer

OWN = ("epsilon_dpo", "stages")
answers = os.fdopen(os.dup(1), "w")


def be_stage(module, folder, environment, said):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, path in enumerate((os.devnull, said, said)):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), descriptor)
    first, *others = environment["PYTHONPATH"].split(os.pathsep)
    sys.path[:1] = [folder, first, *others]
    watcher = Path(first, "sitecustomize.py")
    exec(compile(watcher.read_text(), watcher, "exec"), {"__name__": "sitecustomize"})
    sys.argv = ["-m"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    code = Path(sys.modules["epsilon_dpo"].__file__)
    assert code.is_relative_to(Path(folder, "src")), f"the code that ran is {code}"
    sys.exit(0)


gc.freeze()
for line in sys.stdin:
    assert not [name for name in sys.modules if name.partition(".")[0] in OWN]
    if (stage := os.fork()) == 0:
        be_stage(**json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(stage, 0)[1]), file=answers, flush=True)
"""


# In the place of the exempt files: the same names, and nothing behind them.
STUBS = {
    "child.py": """
started_as, CREDENTIALS, PATIENCE_S = None, 12, 1.0

def is_own(connection):
    return False

class Leader:
    def __init__(self, *arguments):
        pass
""",
    "errors.py": """
import contextlib

class UserError(Exception):
    pass

class NotServed(UserError):
    pass

def redacted(text):
    return text

def fault_of_proxy(address, error):
    return None

def memory_in_a_sentence(what):
    return contextlib.nullcontext()

def lacks_memory(error):
    return False

def printable(text):
    return text

def first_line(error):
    return str(error)

def let_stdout_take_all():
    pass

def discard_stdout():
    pass
""",
    "progress.py": """
def show_one_bar(trainer):
    pass
""",
    "tracker.py": """
class Tracker:
    def __init__(self, *arguments):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def __getattr__(self, name):
        return lambda *arguments, **named: None

def start_early(leader):
    pass

def are_marked(policies):
    return True

def deliver_waiting():
    pass
""",
}


@dataclass
class Alone:
    """One execution of a stage among its declared dependencies alone.

    Attributes:
        paths: the stage's outs.
        made: their files, bytes by path.
        unread: declared paths under out/ of which no file was opened.
    """

    paths: list[str]
    made: dict[str, bytes]
    unread: set[str]


def contents(project: Path, paths: list[str]) -> dict[str, bytes]:
    """The bytes of every file at or below `paths`, by path relative to `project`."""
    files = [file for path in paths for file in [project / path, *(project / path).rglob("*")] if file.is_file()]
    return {str(file.relative_to(project)): file.read_bytes() for file in files}


@contextmanager
def stage_forks() -> Iterator["subprocess.Popen[str]"]:
    """The process of FORKS, without which each stage would import torch, transformers and trl for itself."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", FORKS], text=True, env=environment, **pipes) as process:
        yield process


def run_alone(forks: "subprocess.Popen[str]", project: Path, folder: Path, stage: str, run: str) -> Alone:
    """Run `stage` (of `run`, if it has one per run) in `folder`, which holds the project's code and its declared data.

    Args:
        forks: of stage_forks.

    Raises:
        AssertionError: the stage failed.
    """
    whole: dict[str, Any] = read_yaml(project / "dvc.yaml")
    entry = whole["stages"][stage].get("do", whole["stages"][stage])
    deps = [dep for dep in entry["deps"] if dep.startswith("out/")]
    folder.mkdir()
    for code in ("stages", "src"):  # no link, through which a stage would find the code of `project`
        shutil.copytree(project / code, folder / code)
    for file in EXEMPT:
        (folder / file).write_text(STUBS[Path(file).name], "utf-8")
    for name in ("params.yaml", "pins.yaml"):
        shutil.copy(project / name, folder)
    local = [dep for dep in entry["deps"] if dep in LOCAL]
    method = read_yaml(project / "params.yaml")["runs"][run]["method"]

    def of_run(path: str) -> str:
        return path.replace("${key}", run).replace("${item.method}", method)

    for dep in [of_run(dep) for dep in [*deps, *local]]:
        _link(project / dep, folder / dep)
    (folder / DECOY).mkdir(parents=True)
    (folder / DECOY / "file").write_text("nobody reads this")
    entry["deps"] = [*entry["deps"], DECOY]
    with (folder / "dvc.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(whole, file)
    name = f"{stage}@{run}" if "do" in whole["stages"][stage] else stage
    log = _run(forks, project, folder, entry["cmd"], name)
    read = log.read_text("utf-8").splitlines()
    unread = {dep for dep in [*deps, DECOY] if not any(_below(path, of_run(dep)) for path in read)}
    outs = [of_run(out if isinstance(out, str) else next(iter(out))) for out in entry["outs"]]
    return Alone(outs, contents(folder, outs), unread)


def _link(source: Path, target: Path) -> None:
    """Hard links, so that no path leads back into the project."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=os.link, dirs_exist_ok=True)
    else:
        os.link(source, target)


def _below(path: str, dep: str) -> bool:
    return path == dep or path.startswith(dep + "/")


def _run(forks: "subprocess.Popen[str]", project: Path, folder: Path, command: str, stage: str) -> Path:
    """Run `command` of `stage` in `folder`; the log of what it read."""
    watcher = folder / "watcher"
    watcher.mkdir()
    (watcher / "sitecustomize.py").write_text(WATCH)
    log, said = folder / "read.txt", folder / "said.txt"
    env = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": f"{watcher}:{folder / 'src'}",
        "DVC_STAGE": stage,
        "HF_HUB_OFFLINE": "1",
        "READ_UNDER_OUT": str(log),
        "DVC_ROOT": str(project),  # scratch/ is the project's, as with `dvc exp run --temp`
        "MLFLOW_TRACKING_URI": NOBODY,
    }
    python, m, module = command.split()
    assert (python, m) == ("python", "-m") and forks.stdin is not None and forks.stdout is not None
    asked = {"module": module, "folder": str(folder), "environment": env, "said": str(said)}
    print(json.dumps(asked), file=forks.stdin, flush=True)
    assert forks.stdout.readline() == "0\n", f"{command}:\n{said.read_text('utf-8', 'replace')[-5000:]}"
    return log
