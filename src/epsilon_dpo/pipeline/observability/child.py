"""The process that writes a stage's record to MLflow: a fork of one that has MLflow imported, or one of its own.

To import MLflow takes 3 to 5 CPU s, as long as many a stage. Below `dvc repro` it is imported once, by a process that
lives as long as `dvc` (mlflow_writer/fork_server.py) and is forked for each stage. A stage that was started by hand,
and every stage where that fails, has a process of its own. Nothing but the standard library is imported here.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import NamedTuple, TextIO

# MLflow's own defaults let one call to a dead server block for 247 s. It is outbox.py that tries again.
NETWORK_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
NO_TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}  # read when MLflow is imported
PATIENCE_S = 5.0  # of both sides with each other, for what takes no time
CREDENTIALS = 12  # bytes of Linux' struct ucred: pid, uid, gid

_servers: "list[subprocess.Popen[bytes]]" = []  # that this process has started
started_as: int | None = None  # the process in whose place this one is the stage (stage/forks.py); None: none


class Leader(NamedTuple):
    """The `dvc` above a stage.

    Attributes:
        pid, started: of its process; seconds since 1970.
    """

    pid: int
    started: float


class Forked:
    """A fork, with what is used of a `Popen`."""

    def __init__(self, connection: socket.socket, stdin: TextIO) -> None:
        """
        Args:
            connection: on which the fork says its pid and, at its end, its exit code; a line each.
            stdin: the writing end of its standard input.
        """
        self.stdin = stdin
        self.returncode: int | None = None
        self._connection = connection
        self._said = b""

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            self._connection.settimeout(None if deadline is None else max(0.0, deadline - time.monotonic()))
            try:
                said = self._connection.recv(64)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("the fork of MLflow's process", timeout or 0.0) from None
            except OSError:
                said = b""
            self._said += said
            if self._said.count(b"\n") == 2:
                self._end(int(self._said.split()[1]))
            elif not said:
                self._end(-signal.SIGKILL)
        return self.returncode

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """One that is not forked yet, as its server still imports MLflow, cannot be; it is waited for no longer."""
        if not self._signal(signal.SIGKILL) and self.returncode is None:
            self._end(-signal.SIGKILL)

    def let_go(self) -> None:
        """Of this copy, in a process that was forked from the one whose record it writes."""
        self.stdin.close()
        self._connection.close()

    def _signal(self, number: signal.Signals) -> bool:
        if self.poll() is not None or b"\n" not in self._said:
            return False
        with suppress(ProcessLookupError):
            os.kill(int(self._said.split()[0]), number)
        return True

    def _end(self, code: int) -> None:
        self.returncode = code
        self._connection.close()


def start_process(leader: Leader | None) -> "subprocess.Popen[str] | Forked":
    """A process that reads Tracker's messages from its stdin.

    Args:
        leader: with which the server of forks lives; None: a process of its own.

    Raises:
        OSError: no process can be started.
    """
    if leader is not None and sys.platform == "linux":  # elsewhere a process with libraries in it may not be forked
        with suppress(OSError):
            return _fork(leader)
    return subprocess.Popen(
        [sys.executable, "-m", "epsilon_dpo.mlflow_writer.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env=NETWORK_LIMITS | os.environ,
        start_new_session=True,  # Ctrl-C and SIGTERM to the group end the stage, which then closes the run
    )


def is_own(connection: socket.socket) -> bool:
    """Whether a process of this user is at the other end: anybody may use a name."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS)
    return int.from_bytes(credentials[4:8], sys.byteorder) == os.getuid()


def _fork(leader: Leader) -> Forked:
    connection = _connection(leader)
    reading, writing = os.pipe()
    try:
        connection.settimeout(PATIENCE_S)
        socket.send_fds(connection, [b"\0"], [reading, 2])
        request = {"folder": os.getcwd(), "environment": NETWORK_LIMITS | os.environ}
        connection.sendall(json.dumps(request).encode())
        connection.shutdown(socket.SHUT_WR)
    except BaseException:
        connection.close()
        os.close(writing)
        raise
    finally:
        os.close(reading)
    return Forked(connection, open(writing, "w", encoding="utf-8"))


def _connection(leader: Leader) -> socket.socket:
    """To the server of `leader`, which is started if there is none. Its address is no file: nothing is left behind."""
    address = f"\0epsilon-dpo-{os.getuid()}-{leader.pid}-{leader.started}"
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            connection.connect(address)
        except ConnectionRefusedError:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                listener.bind(address)
                listener.listen()
                _start_server(listener.fileno(), leader)
            connection.connect(address)  # it is answered once MLflow is imported
        if not is_own(connection):
            raise PermissionError("another user's process has the name of MLflow's")
    except BaseException:
        connection.close()
        raise
    return connection


def _start_server(listener: int, leader: Leader) -> None:
    of_leader = [str(leader.pid), repr(leader.started)]
    command = [sys.executable, "-m", "epsilon_dpo.mlflow_writer.fork_server", str(listener), *of_leader]
    quiet = subprocess.DEVNULL  # whoever reads what `dvc` prints waits for all that hold it
    server = subprocess.Popen(
        command, stdin=quiet, stdout=quiet, stderr=quiet, pass_fds=[listener], start_new_session=True
    )
    _servers.append(server)
