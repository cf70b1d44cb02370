"""A Postgres of one's own for a test: Debian's package as it is installed, in a folder under /tmp, on a free port."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

USER, PASSWORD = "mlflow", "p@ss%/1"  # what an address has to quote, and an .ini file too
QUOTED = "p%40ss%25%2F1"
ABSENT = "PostgreSQL is not installed here (Debian and Ubuntu: apt install postgresql)"


def programs() -> Path | None:
    """The folder of initdb and pg_ctl; Debian has it outside PATH."""
    found = shutil.which("pg_ctl")
    folders = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
        *([Path(found).parent] if found else []),
    ]
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def free_port() -> int:
    """Below those that connections get, of which one may take it before the server does."""
    while True:
        with socket.socket() as bound, suppress(OSError):
            bound.bind(("127.0.0.1", 20_000 + secrets.randbelow(12_000)))
            return bound.getsockname()[1]


@contextmanager
def postgres(*databases: str) -> Iterator[str]:
    """A running server with empty `databases`; its address without the database."""
    bin_folder = programs()
    assert bin_folder is not None, ABSENT
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # short: a socket's path has at most 107 characters
    owner = {"user": "postgres"} if os.getuid() == 0 else {}  # it refuses to run as root

    def run(program: str, *arguments: str, **environment: str) -> None:
        command = [str(bin_folder / program), *arguments]
        env = os.environ | {"PGPASSWORD": PASSWORD, **environment}
        log = folder / "commands.log"
        with log.open("a") as output:
            done = subprocess.run(command, cwd=folder, stdout=output, stderr=output, env=env, check=False, **owner)
        assert done.returncode == 0, log.read_text()

    (folder / "password").write_text(PASSWORD)
    if owner:
        for path in (folder, folder / "password"):
            shutil.chown(path, "postgres")
    data, port = folder / "data", free_port()
    try:
        login = ("-U", USER, "--auth=scram-sha-256", f"--pwfile={folder}/password")
        run("initdb", "-D", str(data), *login, "--encoding=UTF8", "--locale=C", "--no-sync")
        settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "-D", str(data), "-l", str(folder / "server.log"), "-o", settings, "-w", "start")
        try:
            for database in databases:
                run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", USER, database)
            yield f"postgresql+psycopg2://{USER}:{QUOTED}@127.0.0.1:{port}"
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)
