"""Below one `dvc`, a stage is a fork of an earlier one, and nobody who starts, stops or reads it can tell."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults import title
from processes_of_tests import lives, until, until_gone

from epsilon_dpo.pipeline.stage.forks import MANY
from epsilon_dpo.pipeline.stage.variables import has_gpu

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 60.0
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or has_gpu(),
    reason="stages are forked on Linux, and where no GPU is",
)

# In the place of dvc, and called so: it runs a stage for each line that it reads, and says how that ended.
DVC = """
import json, os, subprocess, sys
for line in sys.stdin:
    if line == "end\\n":
        print("null", flush=True)
        break
    request = json.loads(line)
    done = subprocess.Popen([sys.executable, *request["options"], "-m", *request["command"]],
        env=os.environ | {"DVC_STAGE": request["name"]} | request["environment"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    print(done.pid, flush=True)
    out, error = done.communicate("typed\\n")
    print(json.dumps({"code": done.returncode, "out": out, "error": error}), flush=True)
"""
STAGE = """
import importlib, json, os, sys, time
from pathlib import Path
from epsilon_dpo.pipeline.stage import forks, lifetime
import epsilon_dpo.own

heavy = sum(name in sys.modules for name in ("library.m0", "library.m99"))
for number in range({modules}):
    importlib.import_module(f"library.m{{number}}")
forks.leave_server()
descriptors = os.listdir("/proc/self/fd")
lifetime.end_with_dvc()
print(json.dumps({{"had": heavy, "own": epsilon_dpo.own.VALUE, "arguments": sys.argv[1:], "pid": os.getpid(),
    "stage": os.environ["DVC_STAGE"], "open": len(descriptors), "dvc": lifetime.dvc_above().pid,
    "folder": os.getcwd(), "name": __name__, "spec": __spec__.name, "typed": sys.stdin.readline()}}), flush=True)
how = sys.argv[1] if len(sys.argv) > 1 else ""
if how == "raise":
    raise ZeroDivisionError("by nothing")
if how == "exit":
    sys.exit("a sentence")
if how == "kill":
    os.kill(os.getpid(), 9)
if how == "wait":
    Path("waits").write_text(str(os.getpid()))
    try:
        time.sleep(100)
    except KeyboardInterrupt:
        sys.exit(130)
"""


class Dvc:
    """The process in dvc's place."""

    def __init__(self, *before: str) -> None:
        self.process = subprocess.Popen(
            [*before, sys.executable, "dvc.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, *command: str, options: tuple[str, ...] = (), **environment: str) -> int:
        """The pid of what it has started."""
        assert self.process.stdin is not None and self.process.stdout is not None
        name = f"{command[0].rpartition('.')[2]}@{'_'.join(command[1:])}"
        request = {"command": command, "name": name, "options": options, "environment": environment}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def run(self, *command: str, options: tuple[str, ...] = (), **environment: str) -> dict[str, Any]:
        """What the stage printed, with `code` and `error`."""
        self.start(*command, options=options, **environment)
        ended = self.end()
        return {**json.loads(ended["out"]), "code": ended["code"], "error": ended["error"]}


@pytest.fixture
def dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dvc]:
    """In a project with two stages, one of which imports more than the other; both have imported enough."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    for folder in ("stages", "library"):
        Path(folder).mkdir()
    shutil.copy(ROOT / "stages" / "__init__.py", "stages")
    shutil.copytree(ROOT / "src" / "epsilon_dpo", "src/epsilon_dpo", ignore=shutil.ignore_patterns("__pycache__"))
    Path("src/epsilon_dpo/own.py").write_text("VALUE = 1\n")
    for number in range(3 * MANY):
        Path(f"library/m{number}.py").write_text("")
    Path("stages/little.py").write_text(textwrap.dedent(STAGE).format(modules=MANY))
    Path("stages/much.py").write_text(textwrap.dedent(STAGE).format(modules=3 * MANY))
    Path("dvc.py").write_text(DVC)
    set_patience(PATIENCE_S)
    started = Dvc()
    yield started
    started.close()


def set_patience(seconds: float) -> None:
    """Of a stage with its server, where this machine may be busy."""
    file = Path("src/epsilon_dpo/pipeline/observability/child.py")
    file.write_text(re.sub(r"(?m)^PATIENCE_S = [\d.]+", f"PATIENCE_S = {seconds}", file.read_text("utf-8")), "utf-8")


def servers(dvc: Dvc) -> list[psutil.Process]:
    name = f"epsilon-dpo: forks the stages of dvc {dvc.process.pid}"
    return [process for process in psutil.process_iter() if title(process) == name and lives(process.pid)]


def test_the_second_stage_has_what_the_first_imported_and_is_otherwise_as_started(dvc: Dvc) -> None:
    first = dvc.run("stages.little", "a b", "$c")
    assert first["had"] == 0 and first["error"] == ""
    Path("src/epsilon_dpo/own.py").write_text("VALUE = 22\n")
    second = dvc.run("stages.little", "d")
    assert second["had"] == 2 and second["own"] == 22, "the project's own modules are as they are now"
    assert (second["arguments"], second["stage"]) == (["d"], "little@d")
    alike = ("open", "dvc", "folder", "name", "spec", "typed", "code", "error")
    assert {key: second[key] for key in alike} == {key: first[key] for key in alike}
    until(lambda: len(servers(dvc)) == 1, PATIENCE_S)  # a fork has the title until it takes its own
    [server] = servers(dvc)
    assert server.num_fds() == 4 and server.cwd() == "/"  # three to nothing, and the socket
    assert dvc.run("stages.much")["had"] == 2
    until_gone(server.pid, within_s=PATIENCE_S)
    until(lambda: len(servers(dvc)) == 1, PATIENCE_S)  # the stage that imported more has taken its place
    assert dvc.run("stages.much", "again")["had"] == 2
    dvc.process.kill()
    dvc.process.wait()
    until(lambda: not servers(dvc), PATIENCE_S)


def test_what_starts_one_dvc_after_the_other_keeps_the_server_for_them(dvc: Dvc) -> None:
    several = Dvc("sh", "-c", 'export EPSILON_DPO_DVCS=$$; "$0" "$@"; "$0" "$@"')
    assert several.process.stdin is not None
    assert several.run("stages.little")["had"] == 0
    several.process.stdin.write("end\n")
    several.process.stdin.flush()
    assert several.end() is None
    second = several.run("stages.little")
    assert (second["had"], second["dvc"]) == (2, several.process.pid)
    assert dvc.run("stages.little", EPSILON_DPO_DVCS=str(several.process.pid))["had"] == 0, "it is not below that one"
    several.close()
    until(lambda: not servers(several), PATIENCE_S)


def test_a_stage_ends_as_one_that_was_not_forked(dvc: Dvc) -> None:
    kinds, plain = ("raise", "exit", "kill"), []
    for kind in kinds:
        alone = Dvc()
        plain.append(alone.run("stages.little", kind))
        alone.close()
    dvc.run("stages.little")
    forked = [dvc.run("stages.little", kind) for kind in kinds]
    assert [each["had"] for each in plain + forked] == [0, 0, 0, 2, 2, 2]
    assert [each["code"] for each in forked] == [each["code"] for each in plain] == [1, 1, -9]
    raised = [each["error"].splitlines() for each in (plain[0], forked[0])]
    assert raised[1][-3:] == raised[0][-3:] and "ZeroDivisionError: by nothing" in raised[1][-1]
    assert "forks.py" not in forked[0]["error"] and len(raised[1]) <= len(raised[0])
    assert forked[1]["error"] == plain[1]["error"] == "a sentence\n"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_signal_reaches_the_stage(dvc: Dvc, number: int, code: int) -> None:
    """That of SIGKILL is one to who asked for the stage, who cannot hand it on."""
    dvc.run("stages.little")
    asked = dvc.start("stages.little", "wait")
    until(lambda: Path("waits").exists() and Path("waits").read_text(), PATIENCE_S)
    stage = psutil.Process(int(Path("waits").read_text()))
    assert stage.pid != asked and title(stage) == "python -m stages.little (little@wait)"
    os.kill(asked, number)
    if number != signal.SIGKILL:
        assert dvc.end()["code"] == code
    until_gone(stage.pid, within_s=PATIENCE_S)
    if number == signal.SIGKILL:  # until then the stage has dvc's pipes, as it had when it was no fork
        ended = dvc.end()
        assert ended["code"] == code and "the dvc that started it" in ended["error"]
    assert dvc.run("stages.little")["had"] == 2


def test_what_is_ignored_stays_ignored(dvc: Dvc) -> None:
    protected = Dvc("nohup")
    assert [protected.run("stages.little")["had"] for _ in range(2)] == [0, 2]
    asked = protected.start("stages.little", "wait")
    until(lambda: Path("waits").exists() and Path("waits").read_text(), PATIENCE_S)
    os.kill(asked, signal.SIGHUP)
    time.sleep(0.5)
    stage = psutil.Process(int(Path("waits").read_text()))
    assert lives(stage.pid)
    os.kill(asked, signal.SIGTERM)
    assert protected.end()["code"] == -signal.SIGTERM
    protected.close()


def test_what_libraries_read_when_they_are_imported_must_be_alike(dvc: Dvc) -> None:
    dvc.run("stages.little")
    assert dvc.run("stages.little", OMP_NUM_THREADS="3")["had"] == 0
    assert dvc.run("stages.little", options=("-O",))["had"] == 0
    assert dvc.run("stages.little")["had"] == 2
    os.setpriority(os.PRIO_PROCESS, dvc.process.pid, os.getpriority(os.PRIO_PROCESS, 0) + 1)
    assert dvc.run("stages.little")["had"] == 0, "somebody moved dvc aside, and so the stages after it"


def test_a_server_that_does_not_answer_is_done_without(dvc: Dvc) -> None:
    dvc.run("stages.little")
    [server] = servers(dvc)
    server.suspend()
    set_patience(1.0)
    assert dvc.run("stages.little")["had"] == 0
    set_patience(PATIENCE_S)
    server.kill()
    assert dvc.run("stages.little")["had"] == 0
    assert dvc.run("stages.little")["had"] == 2
