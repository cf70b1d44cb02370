"""Processes that tests start, and waiting for what they do."""

import time
from collections.abc import Callable

import psutil


def until(condition: Callable[[], object], within_s: float) -> None:
    """Wait for `condition`; a test fails that waits in vain."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"in vain for {within_s:.0f} s"
        time.sleep(0.05)


def lives(pid: int) -> bool:
    """Not so of one that has ended and that its parent, perhaps this process, has not asked about yet."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def until_gone(*pids: int, within_s: float) -> None:
    """A test fails that a process outlives."""
    deadline = time.monotonic() + within_s
    while left := [pid for pid in pids if lives(pid)]:
        assert time.monotonic() < deadline, f"a process is left: {left}"
        time.sleep(0.1)
