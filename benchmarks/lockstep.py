"""A against B in lock-step: one fresh process per variant, one step each in turn, in rotating order.

While one process takes its step the others wait at a pipe, so that all variants meet the same moods of the machine.
Time is CPU seconds of the process (all threads), which a busy neighbour hardly changes; wall time is kept beside it.
Memory is the process's highest resident size minus its size once everything was loaded.

The parent calls `alternate`. A child calls `Turns().pause()` when it has loaded, and again after each step.
"""

import ctypes
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Measured:
    """One variant's steps, warm-up left out."""

    cpu: list[float] = field(default_factory=list)  # seconds per step
    wall: list[float] = field(default_factory=list)
    loaded: float = 0.0  # MB resident before the first step
    peak: float = 0.0  # MB, the highest resident size until the end

    @property
    def added(self) -> float:
        return self.peak - self.loaded


class Turns:
    """The child's side. Standard output belongs to the protocol: what is printed goes to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._cpu: float | None = None
        self._wall = 0.0

    def pause(self) -> None:
        """Report what was spent since the last pause and wait; ends the process when no step is wanted any more."""
        if self._cpu is None:
            # What was freed while loading must not count as there already: a process may have told glibc to keep it.
            ctypes.CDLL(None).malloc_trim(0)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            report = {"loaded": pages * os.sysconf("SC_PAGE_SIZE") / 1e6}
        else:
            spent = {"cpu": time.process_time() - self._cpu, "wall": time.perf_counter() - self._wall}
            report = spent | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}
        print(json.dumps(report), file=self._out, flush=True)
        if sys.stdin.readline().strip() != "go":
            os._exit(0)
        self._cpu, self._wall = time.process_time(), time.perf_counter()


def taking_turns(turns: Turns) -> Any:
    """A callback by which a trainer pauses when it has loaded, and again after each step."""
    from transformers import TrainerCallback  # which the parent has no use for

    class TakesTurns(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            turns.pause()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            turns.pause()

    return TakesTurns()


def alternate(commands: Mapping[str, Sequence[str]], rounds: int, warm_up: int) -> dict[str, Measured]:
    """Start every command, then `warm_up` + `rounds` times let each take one step."""
    with_pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = {name: subprocess.Popen(command, **with_pipes) for name, command in commands.items()}
    found = {name: Measured(loaded=_report(name, child)["loaded"]) for name, child in children.items()}
    names = list(commands)
    try:
        for number in range(warm_up + rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                print("go", file=children[name].stdin, flush=True)
                report = _report(name, children[name])
                found[name].peak = report["peak"]
                if number >= warm_up:
                    found[name].cpu.append(report["cpu"])
                    found[name].wall.append(report["wall"])
    finally:
        for child in children.values():
            child.stdin.close()  # the child reads an empty line and ends
            child.wait()
    return found


def _report(name: str, child: subprocess.Popen) -> dict[str, float]:
    line = child.stdout.readline()
    if not line:
        raise SystemExit(f"{name} ended with exit status {child.wait()} before its step was over")
    return json.loads(line)


def ratio(found: Mapping[str, Measured], one: str, other: str) -> tuple[float, float, float]:
    """Median and quartiles over the rounds of CPU seconds of `one` ÷ `other`."""
    low, median, high = np.percentile(np.divide(found[one].cpu, found[other].cpu), [25, 50, 75])
    return float(median), float(low), float(high)


def table(found: Mapping[str, Measured], base: str) -> str:
    """Markdown: CPU seconds per step, their ratio to `base` with quartiles, added memory and its ratio."""
    lines = [
        f"| variant | CPU s a step | ÷ {base} [quartiles] | wall s | added MB | ÷ {base} |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        median, low, high = ratio(found, name, base)
        memory = one.added / found[base].added
        lines.append(
            f"| {name} | {np.median(one.cpu):.3f} | {median:.3f} [{low:.3f}, {high:.3f}] | {np.median(one.wall):.3f} "
            f"| {one.added:.0f} | {memory:.2f} |"
        )
    return "\n".join(lines)


def machine() -> str:
    """Where and with what a table was made, in a line."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "accelerate"))
    return f"{model}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"
