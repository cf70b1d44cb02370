"""A server of MLflow's for tests, with a database of its own, which can be killed and started again."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

from postgres import free_port

PATIENCE_S = 120.0  # for a server that starts on a busy machine


class Server:
    """`mlflow server` on a port of its own, with its store in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        self.process = subprocess.Popen(command, cwd=self.folder, env=environment, **quiet)  # type: ignore[call-overload]
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_up():
            assert time.monotonic() < deadline, "mlflow server does not start"
            time.sleep(0.2)

    def is_up(self) -> bool:
        with suppress(OSError), urlopen(f"{self.uri}/health", timeout=2):
            return True
        return False

    def signal(self, number: int) -> None:
        """To it and its workers."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def stop(self) -> None:
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        self.process = None
