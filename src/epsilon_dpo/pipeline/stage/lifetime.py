"""A stage does not outlive the `dvc` that started it: nobody would record what it makes.

A signal to `dvc` reaches neither the shell that it starts nor the stage below it. So a thread looks every second
whether each process from the stage up to `dvc` still has the parent that it had, on Linux as on macOS. (Linux' own
signal at a parent's death, PR_SET_PDEATHSIG, says nothing of a shell in between, and comes also when just the thread
of `dvc` ends that started the stage.)
"""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil

from epsilon_dpo.pipeline.observability.child import Leader

INTERVAL_S = 1.0
GRACE_S = 5.0  # for a SIGTERM that somebody handles
STARTED_BY_DVC = "DVC_STAGE"  # dvc gives it to the commands that it starts

_watching: list[threading.Thread] = []


def end_with_dvc() -> None:
    """End this process by SIGTERM once `dvc` is gone; a stage that was started by hand lives on its own."""
    if STARTED_BY_DVC in os.environ and not _watching:
        _watching.append(threading.Thread(target=_watch, daemon=True))
        _watching[0].start()


def dvc_above() -> Leader | None:
    """The `dvc` that has started this stage; None where a hand has, or where that `dvc` is gone."""
    if STARTED_BY_DVC not in os.environ:
        return None
    top = _up_to_dvc()[-1]
    with suppress(psutil.Error):
        if is_dvc(top):
            return Leader(top.pid, top.create_time())
    return None


def is_dvc(process: psutil.Process) -> bool:
    """Whether it was started as `dvc`, by its script or `python -m dvc`."""
    return any(Path(argument).stem == "dvc" for argument in process.cmdline()[:3])


def lives(process: psutil.Process) -> bool:
    """Whether it runs: one that has ended and is waited for by nobody yet does not.

    Raises:
        psutil.NoSuchProcess: it went away in between.
    """
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def end_with(pid: int) -> None:
    """Kill this process once `pid` is gone, a process of this machine: nothing of it would be used."""
    threading.Thread(target=_follow, args=(psutil.Process(pid),), daemon=True).start()


def _follow(leader: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        while lives(leader):
            time.sleep(INTERVAL_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _watch() -> None:
    chain = _up_to_dvc()
    while _is_unbroken(chain):
        time.sleep(INTERVAL_S)
    with suppress(OSError, ValueError):  # a terminal may be gone, too
        what = f"stage {os.environ[STARTED_BY_DVC]} ends: the dvc that started it, pid {chain[-1].pid}, is gone."
        print(what, file=sys.stderr, flush=True)
    for child in psutil.Process().children():  # samplers; the tracking process, in its own session, closes the row
        with suppress(psutil.Error, OSError):
            if os.getsid(child.pid) == os.getsid(0):
                child.terminate()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _up_to_dvc() -> list[psutil.Process]:
    """This process, the shells above it, and `dvc`: the first that was not itself started by `dvc`."""
    chain = [psutil.Process()]
    with suppress(psutil.Error, OSError):  # another user's process is no shell of ours; one may end meanwhile
        while (parent := chain[-1].parent()) is not None:
            chain.append(parent)
            if STARTED_BY_DVC not in parent.environ():
                break
    return chain


def _is_unbroken(chain: list[psutil.Process]) -> bool:
    try:
        return all(child.ppid() == parent.pid for child, parent in pairwise(chain))
    except psutil.NoSuchProcess:
        return False
