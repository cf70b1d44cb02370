"""`python -m epsilon_dpo.mlflow_writer.fork_server FD PID STARTED`: a process with MLflow imported, forked per stage.

It answers at the socket FD as long as the `dvc` of PID and STARTED lives, and writes nothing itself. Who asks, and why,
is in pipeline/observability/child.py.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

import psutil

from epsilon_dpo.mlflow_writer.process import be_quiet, import_mlflow, run
from epsilon_dpo.pipeline.observability.child import PATIENCE_S, Leader, is_own
from epsilon_dpo.pipeline.stage.lifetime import INTERVAL_S, lives


def answer(listener: socket.socket, dvc: Leader) -> None:
    """Fork for whoever asks at `listener`, until `dvc` is gone and nobody waits any more.

    A `dvc` that is killed before MLflow is imported here leaves its first stage waiting, which ends with it and has
    said so in the pipe that it hands over.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a fork that ends is waited for by the kernel
    listener.settimeout(INTERVAL_S)
    leader, somebody = _process_of(dvc), True
    while somebody or _is_there(leader):
        somebody = False
        with suppress(OSError, ValueError):  # nobody asked; who asked is gone
            connection, _ = listener.accept()
            somebody = True
            with connection:
                _fork(connection, listener)


def _process_of(dvc: Leader) -> psutil.Process | None:
    """None if it is gone. Asked once: when a process was started is told otherwise after the clock was set."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(dvc.pid)
        return process if process.create_time() == dvc.started else None  # another may have its number by now
    return None


def _is_there(leader: psutil.Process | None) -> bool:
    with suppress(psutil.NoSuchProcess):
        return leader is not None and lives(leader)
    return False


def _fork(connection: socket.socket, listener: socket.socket) -> None:
    connection.settimeout(PATIENCE_S)
    if not is_own(connection):
        return
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 2)
    try:
        stdin, stderr = descriptors
        request = json.loads(b"".join(iter(lambda: connection.recv(1 << 16), b"")))
        if os.fork() == 0:
            code = 1
            try:
                listener.close()
                code = _become_process(connection, stdin, stderr, request)
            finally:
                with suppress(OSError):
                    connection.sendall(f"{code}\n".encode())
                os._exit(code)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _become_process(connection: socket.socket, stdin: int, stderr: int, request: dict[str, Any]) -> int:
    """As if it had been started in the folder and with the environment of the request. Returns its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.dup2(stdin, 0)
    os.dup2(stderr, 2)
    with suppress(OSError):  # the stage is gone; its record is written all the same
        connection.sendall(f"{os.getpid()}\n".encode())
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    return run()


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        be_quiet()
        import_mlflow()
        answer(asked, Leader(int(sys.argv[2]), float(sys.argv[3])))
