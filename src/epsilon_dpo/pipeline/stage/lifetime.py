"""A stage does not outlive the `dvc` that started it: nobody would record what it makes.

A signal to `dvc` reaches neither the shell that it starts nor the stage below it. So a thread looks every second
whether each process from the stage up to `dvc` still has the parent that it had; on macOS only up to a shell that stays
in between, whose variables nobody may read. (Linux' own signal at a parent's death, PR_SET_PDEATHSIG, says nothing of a
shell in between, and is also sent when only the thread of `dvc` that started the stage ends.)
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

from epsilon_dpo.pipeline.observability import child
from epsilon_dpo.pipeline.observability.child import Leader

INTERVAL_S = 1.0
GRACE_S = 5.0  # for a SIGTERM that somebody handles
STARTED_BY_DVC = "DVC_STAGE"  # dvc gives it to the commands that it starts
STARTS_DVCS = "EPSILON_DPO_DVCS"  # pid of what starts one `dvc` after the other (launchers/job.sh)

_watching: list[threading.Thread] = []


def end_with_dvc() -> None:
    """End this process by SIGTERM once `dvc` is gone; a stage that was started by hand lives on its own."""
    if STARTED_BY_DVC in os.environ and not _watching:
        _watching.append(threading.Thread(target=_watch, daemon=True))
        _watching[0].start()


def dvc_above() -> Leader | None:
    """The `dvc` that has started this stage, or what starts one `dvc` after the other; None where a hand has started
    it, or where that `dvc` is gone."""
    if STARTED_BY_DVC not in os.environ:
        return None
    with suppress(psutil.Error):
        if is_dvc(top := _up_to_dvc()[-1]):
            several = [above for above in top.parents() if str(above.pid) == os.environ.get(STARTS_DVCS)]
            leader = several[0] if several else top
            return Leader(leader.pid, leader.create_time())
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
    which = ""
    with suppress(psutil.NoSuchProcess):
        chain = _up_to_dvc()
        which = f", pid {chain[-1].pid},"
        while lives(chain[0]) and all(lower.ppid() == upper.pid for lower, upper in pairwise(chain)):
            time.sleep(INTERVAL_S)
    with suppress(OSError, ValueError):  # a terminal may be gone, too
        what = f"stage {os.environ[STARTED_BY_DVC]} ends: the dvc that started it{which} is gone."
        print(what, file=sys.stderr, flush=True)
    for below in psutil.Process().children():  # samplers; the tracking process, in its own session, closes the row
        with suppress(psutil.Error, OSError):
            if os.getsid(below.pid) == os.getsid(0):
                below.terminate()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _up_to_dvc() -> list[psutil.Process]:
    """This process (who asked for it, where it is a fork), the shells above, and the first that `dvc` did not start.

    Raises:
        psutil.NoSuchProcess: who asked is gone.
    """
    chain = [psutil.Process(child.started_as)]
    with suppress(psutil.Error, OSError):  # another user's process is no shell of ours; one may end meanwhile
        while (parent := chain[-1].parent()) is not None:
            chain.append(parent)
            if STARTED_BY_DVC not in parent.environ():
                break
    return chain
