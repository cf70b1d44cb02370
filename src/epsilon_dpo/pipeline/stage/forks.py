"""Below one `dvc`, a stage is a fork of an earlier one that has imported what takes seconds: torch, transformers, trl.

To import them takes a stage 8 CPU s, more than most of the default's stages compute. So a stage that has imported them
leaves a fork of itself, the server, that lives as long as `dvc` and computes nothing (`leave_server`). What `python -m
stages.NAME` starts asks it for a fork (`hand_over`), which imports the project's own modules anew and is the stage; who
asked hands on signals and ends as the stage does. Where anything about this fails, the stage imports what it needs
itself; so it does without `dvc`, on other systems than Linux, and where a GPU is, whose driver survives no fork.
"""

import importlib
import json
import os
import resource
import runpy
import signal
import socket
import sys
import traceback
from contextlib import suppress
from typing import IO, Any, NoReturn

import psutil
from setproctitle import setproctitle

from epsilon_dpo.pipeline.observability.child import CREDENTIALS, PATIENCE_S, Leader, is_own
from epsilon_dpo.pipeline.stage.lifetime import INTERVAL_S, STARTED_BY_DVC, dvc_above, lives
from epsilon_dpo.pipeline.stage.variables import has_gpu

MANY = 100  # a stage that had to import so many modules beside the server's is the better server from now on
OWN = ("epsilon_dpo", "stages")  # packages that each stage imports anew: somebody may have edited them
OF_A_GROUP = (signal.SIGINT, signal.SIGQUIT, signal.SIGCONT)  # what a terminal or a shell sends to a whole group
OF_ONE = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Started:
    """How this process was started, and the server that it is a fork of."""

    def __init__(self) -> None:
        self.like = _request() if _is_below_dvc() else {}
        self.libraries: set[str] = set()  # that it had from the beginning
        self.server: int | None = None  # pid
        self.listener: socket.socket | None = None


class Asked:
    """A stage that somebody asks the server for."""

    def __init__(self, connection: socket.socket) -> None:
        """
        Raises:
            OSError, ValueError: who asks is another user's process, or gone.
        """
        self.connection = connection
        connection.settimeout(PATIENCE_S)
        if not is_own(connection):
            raise PermissionError("another user's process asks")
        with connection.makefile("rb") as reading:
            self.request = json.loads(reading.readline())
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS)
        self.pid = int.from_bytes(credentials[:4], sys.byteorder)


def hand_over() -> None:
    """From stages/__init__.py: where a server is there, end as the stage that it forks; else return."""
    if (leader := _leader()) is None:
        return
    with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(_address(leader))
        if not is_own(connection):
            return
        connection.sendall(json.dumps(_request()).encode() + b"\n")
        replies = connection.makefile("rb")
        stage = int(replies.readline())  # ValueError: the server is not as this stage needs it
        socket.send_fds(connection, [b"\n"], [0, 1, 2])  # only now does it begin: if this process were gone, not at all
        _follow(stage, connection, replies)


def leave_server() -> None:
    """From the end of heavy_imports: leave a fork of this process to the stages after it, where none is as good.

    In the server's forks it ends as the stage does, by SystemExit.
    """
    leader = None if has_gpu() else _leader()
    asked = None
    if leader is not None and len(_libraries() - _started.libraries) >= MANY:
        with suppress(OSError):
            asked = _fork_server(leader)
    if asked is not None:
        _be_stage(asked)
    if _started.listener is not None:
        _started.listener.close()


def _follow(stage: int, connection: socket.socket, replies: IO[bytes]) -> NoReturn:
    """Hand on signals to `stage`, and end as it does."""
    for number in OF_ONE:
        _handle(number, lambda number, _: _send(os.kill, stage, number))
    for number in OF_A_GROUP:
        _handle(number, lambda number, _: _send(os.killpg, stage, number))
    _handle(signal.SIGTSTP, lambda *_: _pause(stage))
    status: int = signal.SIGKILL
    with suppress(OSError, ValueError):  # who would say it is gone
        connection.settimeout(None)
        status = int(replies.readline())
    if os.WIFSIGNALED(status):
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def _fork_server(leader: Leader) -> Asked | None:
    """None in this process; what is asked for in a fork of the server."""
    if _started.listener is None:
        _started.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _started.listener.bind(_address(leader))  # OSError: a stage of the same dvc, beside this one, has a server
        _started.listener.listen()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if (between := os.fork()) == 0:
        try:
            if os.fork():  # the server is no child of this stage, whose memory it would count as
                os._exit(0)
            return _serve(_started.listener, psutil.Process(leader.pid))
        except BaseException:
            os._exit(1)
    os.waitpid(between, 0)
    if _started.server is not None:
        _send(os.kill, _started.server, signal.SIGTERM)
    return None


def _serve(listener: socket.socket, dvc: psutil.Process) -> Asked:
    """Fork for whoever asks at `listener` until `dvc` is gone, and end; only forks return."""
    _let_go()
    setproctitle(f"epsilon-dpo: forks the stages of dvc {dvc.pid}")
    _started.libraries, _started.server = _libraries(), os.getpid()
    listener.settimeout(INTERVAL_S)
    with suppress(psutil.NoSuchProcess):
        while lives(dvc):
            with suppress(OSError, ValueError, KeyError):  # nobody asked; who asked is gone
                connection, _ = listener.accept()
                try:
                    asked = Asked(connection)
                    server = not _is_like(asked.request) or os.fork() > 0
                except BaseException:
                    connection.close()
                    raise
                if not server:
                    _fork_stage(asked)
                    return asked
                connection.close()
    os._exit(0)


def _let_go() -> None:
    """Of all that belongs to the stage: its terminal, its streams, its tracking process, its folder."""
    tracker = importlib.import_module("epsilon_dpo.pipeline.observability.tracker")  # of the stage, if it is a fork
    os.setsid()
    tracker.let_go()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # whoever reads what `dvc` prints waits for all that hold it
        os.dup2(null, descriptor)
    os.close(null)
    os.chdir("/")
    for number in (*OF_ONE, *OF_A_GROUP, signal.SIGTSTP):
        _handle(number, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a fork that ends is waited for by the kernel


def _fork_stage(asked: Asked) -> None:
    """Return in a fork, the stage; this process says how it ended, as its parent can."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        stage = os.fork()
    except BaseException:
        os._exit(1)
    if stage == 0:
        return
    try:
        _, status = os.waitpid(stage, 0)
        asked.connection.sendall(f"{status}\n".encode())
    finally:
        os._exit(0)


def _be_stage(asked: Asked) -> NoReturn:
    """As `python -m` would run it in the place of who asked."""
    try:
        os.setsid()
        _handle(signal.SIGINT, signal.default_int_handler)
        asked.connection.sendall(f"{os.getpid()}\n".encode())
        _, streams, _, _ = socket.recv_fds(asked.connection, 1, 3)
        for descriptor, number in zip(streams, (0, 1, 2), strict=True):  # ValueError: who asked is gone
            os.dup2(descriptor, number)
            os.close(descriptor)
        asked.connection.close()
        setproctitle(f"python -m {asked.request['module']} ({asked.request['environment'][STARTED_BY_DVC]})")
        os.environ.update(asked.request["environment"])
        os.chdir(asked.request["folder"])
        for name in list(sys.modules):
            if name.partition(".")[0] in OWN and name != "stages":  # that is what asks
                del sys.modules[name]
        vars(importlib.import_module(__name__))["_started"] = _started
        vars(importlib.import_module("epsilon_dpo.pipeline.observability.child"))["started_as"] = asked.pid
        sys.argv = [sys.argv[0], *asked.request["arguments"]]
    except BaseException:
        os._exit(1)
    try:
        runpy.run_module(asked.request["module"], run_name="__main__", alter_sys=True)
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
        sys.exit(1)
    sys.exit(0)


def _leader() -> Leader | None:
    return dvc_above() if _is_below_dvc() else None


def _is_below_dvc() -> bool:
    return sys.platform == "linux" and STARTED_BY_DVC in os.environ


def _address(leader: Leader) -> str:
    """No file: nothing is left behind."""
    return f"\0epsilon-dpo-stages-{os.getuid()}-{leader.pid}-{leader.started}"


def _request() -> dict[str, Any]:
    """What this process was started as."""
    at = sys.orig_argv.index("-m") if "-m" in sys.orig_argv[:-1] else len(sys.orig_argv)
    module, arguments = "".join(sys.orig_argv[at + 1 : at + 2]), sys.orig_argv[at + 2 :]
    python = [sys.executable, *sys.orig_argv[1:at]]
    folders = [path for path in sys.path if path.endswith("-packages") and os.path.isdir(path)]
    installed = {path: os.stat(path).st_mtime_ns for path in folders}
    limits = [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")]
    process = [limits, sorted(os.sched_getaffinity(0)), os.getpriority(os.PRIO_PROCESS, 0)]
    alike = {"python": python, "installed": installed, "folder": os.getcwd(), "process": process}
    return alike | {"environment": dict(os.environ), "module": module, "arguments": arguments}


def _is_like(request: dict[str, Any]) -> bool:
    """Whether `request` can be met by a process that was started as this one was.

    Libraries read the environment on import, and an installation that changed has other libraries; limits, processors
    and priority are what somebody gave the `dvc` that runs.
    """
    other, own = dict(request), json.loads(json.dumps(_started.like))
    for one in (other, own):
        one |= {"module": None, "arguments": None, "environment": one["environment"] | {STARTED_BY_DVC: ""}}
    return other == own


def _libraries() -> set[str]:
    return {name for name in sys.modules if name.partition(".")[0] not in OWN}


def _handle(number: int, how: Any) -> None:
    """What is ignored stays so: nohup, and a shell without job control for what it runs in the background."""
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, how)


def _send(how: Any, process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        how(process, number)


def _pause(stage: int) -> None:
    """Ctrl-Z: stop the stage if this process stops, which the kernel refuses where nobody could let it go on."""
    before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    _send(os.killpg, stage, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGTSTP)
    _send(os.killpg, stage, signal.SIGCONT)
    signal.signal(signal.SIGTSTP, before)


_started = Started()
