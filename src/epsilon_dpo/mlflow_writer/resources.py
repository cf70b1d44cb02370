"""What the process of a stage uses: measured from outside, by the child, so that no stage spends a line on it."""

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from epsilon_dpo.mlflow_writer.environment import output_of

SAMPLE_S = 10.0
PEAK_S = 1.0  # to find the children takes 6 ms, and rows may come a hundred a second
WINDOW_S = 0.5  # a rate over less is noise
BURST_S = 0.002  # faster rows repeat what was logged before a resumption: no step is so short
TOKENS = "num_input_tokens_seen"  # transformers' count of all that was read by a step
MEGABYTE = 1e6
GPU_QUERY = "--query-gpu=index,utilization.gpu,memory.used,power.draw"
GPU_VALUES = ("utilization_percentage", "memory_usage_megabytes", "power_usage_watts")  # behind the index


class Resources:
    """Of one stage, whose process is `pid` and which began at `at` (ms since 1970)."""

    def __init__(self, pid: int | None, at: int) -> None:
        self.began = at
        self._process: psutil.Process | None = None
        with suppress(psutil.Error):
            self._process = psutil.Process(pid) if pid else None
        self._last: float | None = None  # seconds of the row before
        self._highest = 0.0  # MB; a child that has ended has used it all the same
        self._peak_due = float("-inf")
        self._window: tuple[float, float] | None = None  # seconds and tokens where the present rate begins

    def of_row(self, metrics: dict[str, Any], at: int) -> dict[str, float]:
        """Beside a row of the training: seconds since the stage began, tokens per second, peak memory (MB)."""
        seconds = (at - self.began) / 1000
        found = {"2_speed/seconds": seconds}
        if (peak := self._peak()) is not None:
            found["2_speed/peak_memory_megabytes"] = peak
        if isinstance(tokens := metrics.get(TOKENS), int | float):
            resumed = self._last is not None and seconds - self._last < BURST_S
            if self._window is None or resumed:
                self._window = (seconds, tokens)
            elif (passed := seconds - self._window[0]) >= WINDOW_S:
                found["2_speed/tokens_per_second"] = (tokens - self._window[1]) / passed
                self._window = (seconds, tokens)
        self._last = seconds
        return found

    def sample(self) -> dict[str, float]:
        """For the page's "System metrics": the stage and its children, not this one, and the GPUs; empty: it ended."""
        cpu = memory = 0.0
        for process in self._family():
            with suppress(psutil.Error), process.oneshot():
                times = process.cpu_times()
                cpu, memory = cpu + times.user + times.system, memory + process.memory_info().rss
        if not memory:
            return {}
        return {"system/stage_cpu_seconds": cpu, "system/stage_memory_megabytes": memory / MEGABYTE, **_gpus()}

    def _family(self) -> Iterator[psutil.Process]:
        own = psutil.Process()
        others = (own, own.parent())  # the parent: the server of forks, which this stage may have started
        if self._process is not None:
            with suppress(psutil.Error):
                yield self._process
                for child in self._process.children(recursive=True):
                    if child not in others:
                        yield child

    def _peak(self) -> float | None:
        """MB, of the stage and its children together: under a launcher they train, and the stage waits; of Linux."""
        if time.monotonic() >= self._peak_due:
            self._highest = max(self._highest, sum(_peak_of(process.pid) for process in self._family()))
            self._peak_due = time.monotonic() + PEAK_S
        alone = _peak_of(self._process.pid) if self._process is not None else 0.0  # one file: read for every row
        self._highest = max(self._highest, alone)
        return self._highest or None


def _peak_of(pid: int) -> float:
    with suppress(OSError):  # it has ended
        for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024 / MEGABYTE
    return 0.0


def _gpus() -> dict[str, float]:
    found = {}
    if shutil.which("nvidia-smi"):
        for row in output_of(["nvidia-smi", GPU_QUERY, "--format=csv,noheader,nounits"]).splitlines():
            index, *values = (part.strip() for part in row.split(","))
            for name, value in zip(GPU_VALUES, values, strict=False):
                with suppress(ValueError):  # "[N/A]": this card does not measure it, one cut by MIG its utilization
                    amount = float(value) * (2**20 if "megabytes" in name else 1)  # it says MiB
                    found[f"system/gpu_{index}_{name}"] = amount / (MEGABYTE if "megabytes" in name else 1)
    return found
