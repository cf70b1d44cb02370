"""Where one execution of a stage works: no two share a folder, and a killed one leaves nothing for ever.

All of it lies in scratch/, which must be on the file system of out/:

    locks/      one file per execution that runs, which holds its pid and host and is locked by it (flock): the kernel
                lets go when the process dies, however it dies
    partial/    the output of each execution that runs, until it is complete and becomes the one in out/
    removed/    what lay in out/ of a run that params.yaml no longer names, and DVC's cache does not have
    NAME-HASH/  what survives a crash, a training's checkpoints, by the fingerprint of the result

What an execution that no longer runs left in partial/ is removed when any stage starts. A checkpoint is kept until a
stage of its name succeeds: then those of other params go with it, unless an execution uses them. `dvc exp run` only
removes its own, since other experiments of that name may still want to resume; `make clean` leaves removed/ and
the jobs of launchers/ alone.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count as counted
from pathlib import Path
from typing import IO

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.fingerprint import scratch_folder, scratch_root


class Workplace:
    """The folders of one execution, its own for as long as it runs.

    Attributes:
        partial: for the output; does not exist yet.
    """

    def __init__(self, name: str, locks: ExitStack) -> None:
        self.name = name
        self._locks = locks
        with _nobody_else_starts():
            _sweep()
            place = _place(name)
            lock = _claim(place)
            if lock is None:
                pid, host = _holder(place)
                on, there = (f" on {host}", " there") if host else ("", "")
                raise UserError(
                    f"another process, pid {pid}{on}, is running {name}; wait for it or stop it{there}: kill {pid}"
                )
            locks.enter_context(lock)
        self.partial = scratch_root() / "partial" / f"{place}.{os.getpid()}"

    def scratch(self, fingerprint: str) -> Path:
        """The folder for what survives a crash; not made. An experiment beside this one may have the same fingerprint:
        then each has a folder of its own."""
        with _nobody_else_starts():
            first = scratch_folder(self.name, fingerprint)
            for number in counted(1):
                folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
                if lock := _claim(folder.name):
                    self._locks.enter_context(lock)
                    return folder
        raise AssertionError("not reached")

    def clear(self, scratch: Path) -> None:
        """After success: remove `scratch`, and what executions with other params left and nobody uses."""
        shutil.rmtree(scratch, ignore_errors=True)
        if "DVC_EXP_NAME" in os.environ:
            return
        with _nobody_else_starts():
            for folder in scratch_root().iterdir():
                ours = re.fullmatch(rf"{re.escape(self.name)}-[0-9a-f]{{16}}(-\d+)?", folder.name)
                if ours and not _is_locked(folder.name):
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def workplace(name: str) -> Iterator[Workplace]:
    """The folders of this execution of stage `name`, kept from all others until the block ends.

    Raises:
        UserError: another execution of it works in this project.
    """
    with ExitStack() as locks:
        yield Workplace(name, locks)


_held: list[IO[str]] = []  # by this process, until it ends


def hold_some(names: list[str], count: int) -> list[str]:
    """The first `count` of `names` that no other process of this project holds; this one holds them until it ends.

    Waits for as long as fewer are free, which it says once on stderr.
    """
    for attempt in counted():
        with _nobody_else_starts():
            claimed = {name: lock for name in names if (lock := _claim(name))}
            holders = {name: _holder(name) for name in names if name not in claimed}
            kept = list(claimed)[:count] if len(claimed) >= count else []
            for name in claimed.keys() - kept:
                claimed[name].close()
        if len(kept) == count:
            _held.extend(claimed[name] for name in kept)
            return kept
        if attempt == 0:
            held = (f"{name} by pid {pid}{f' on {host}' if host else ''}" for name, (pid, host) in holders.items())
            print(f"waits for {count} of {len(names)} GPUs; held: {', '.join(held)}", file=sys.stderr, flush=True)
        time.sleep(1)
    raise AssertionError("not reached")


def _place(name: str) -> str:
    """The stage and whose out/ it writes: `dvc exp run --temp` works in a copy, where DVC_ROOT is the original."""
    here = Path.cwd().resolve()
    if here == scratch_root().parent.resolve():
        return name
    return f"{name}-{hashlib.sha256(str(here).encode()).hexdigest()[:8]}"


def _lock_file(name: str) -> Path:
    return scratch_root() / "locks" / f"{name}.lock"


@contextmanager
def _nobody_else_starts() -> Iterator[None]:
    """Locks are taken, tested and removed by one process at a time, so that a test is never mistaken for a holder."""
    file = scratch_root() / "locks" / "starting"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as opened:
        _lock(opened, fcntl.LOCK_EX)
        yield


def _claim(name: str) -> IO[str] | None:
    """The lock, which is ours until it is closed; None if a process has it."""
    file = _lock_file(name).open("a", encoding="utf-8")
    try:
        _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    file.truncate(0)
    file.write(f"{os.getpid()} {socket.gethostname()}")
    file.flush()
    return file


def _holder(name: str) -> tuple[str, str | None]:
    """The pid of who has this lock, and its machine where that is another one, which shares the file system."""
    pid, _, host = _lock_file(name).read_text("utf-8").partition(" ")
    return pid, host if host not in ("", socket.gethostname()) else None


def _lock(file: IO[str], how: int) -> None:
    """
    Raises:
        BlockingIOError: another process has it, and `how` says not to wait.
        UserError: the file system has no such locks.
    """
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise
        raise UserError(
            f"{scratch_root()} is on a file system without file locks ({os.strerror(error.errno)}), which keep two "
            "executions of a stage apart; mount it with them (Lustre: -o flock), or put the project on another."
        ) from None


def _is_locked(name: str) -> bool:
    """Whether a process has this lock; if not, its file is gone after this."""
    if not _lock_file(name).exists():
        return False
    with _lock_file(name).open("a") as file:
        try:
            _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        _lock_file(name).unlink()
    return False


def _sweep() -> None:
    """Remove what executions left that no longer run."""
    for lock in _lock_file("x").parent.glob("*.lock"):
        _is_locked(lock.name.removesuffix(".lock"))
    for folder in (scratch_root() / "partial").glob("*"):
        if not _is_locked(folder.name.rpartition(".")[0]):
            shutil.rmtree(folder, ignore_errors=True)
