"""The state of a sampling on disk: after a kill it resumes with the same rows, caches and random numbers.

What shares a batch changes a row's logits by their rounding, and prompts join as others leave. So no answer is kept by
itself: the whole state is written, the rows under way with what the model keeps of their past, and what is drawn from
it again is the same to the last bit. That past may be gigabytes, so the time between two states follows the time that
one takes to write.
"""

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

EVERY_S = 5.0  # between two states, at least; what a kill costs where writing is quick
SHARE = 0.02  # of the time goes into writing, at most
BYTES_PER_S = 5e8  # of a disk, until the first state has been written
OF_FREE = 0.25  # of what is free on the disk, for all processes together; a larger state is not kept

State = dict[str, Tensor]


class Noise(Protocol):
    """Where the random numbers of rows stand."""

    def state(self, rows: list[int]) -> Tensor: ...

    def restore(self, rows: list[int], states: Tensor, drawn: Sequence[Sequence[int]]) -> None: ...


class KeptState:
    """The newest state of one sampling, a file in `folder` whose name carries the sha256 of its content.

    Args:
        folder: the execution's scratch folder, which is named by everything that the answers are made from.
        name: tells the sampling apart from others of the same execution.
    """

    def __init__(self, folder: Path, name: str, noise: Noise) -> None:
        self.noise = noise
        self._folder, self._name = folder, name
        self._last = time.monotonic()
        self._cost_s: float | None = None
        self._said = False

    def is_due(self, size: int) -> bool:
        """Whether a state of `size` bytes should be written now."""
        cost = size / BYTES_PER_S if self._cost_s is None else self._cost_s
        if time.monotonic() - self._last < max(EVERY_S, cost / SHARE):
            return False
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        needed = size * int(os.environ.get("WORLD_SIZE", "1"))
        if needed <= OF_FREE * free:
            return True
        self._last = time.monotonic()
        if not self._said:
            print(
                f"{self._folder} has {free / 1e9:.1f} GB free, of which a quarter at most is used: too little to "
                f"keep a state of {needed / 1e9:.1f} GB; a kill loses what was sampled since the last state.",
                file=sys.stderr,
                flush=True,
            )
        self._said = True
        return False

    def save(self, state: Callable[[], State]) -> None:
        """Replace the state on the disk; a kill at any time leaves the one or the other.

        Args:
            state: makes it, which takes time as well.

        Raises:
            SafetensorError, OSError: the disk takes no more.
        """
        started = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f"{self._name}.partial"
        save_file({name: tensor.contiguous() for name, tensor in state().items()}, partial)
        with partial.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        before = self._files()
        kept = partial.rename(self._folder / f"{self._name}-{digest}.safetensors")
        for older in before:
            if older != kept:
                older.unlink()
        self._last = time.monotonic()
        self._cost_s = self._last - started

    def load(self) -> State | None:
        """The state on the disk; None: there is none. A damaged one is named on stderr and removed."""
        for file in sorted(self._files(), key=lambda file: file.stat().st_mtime_ns, reverse=True):
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            if file.name == f"{self._name}-{digest}.safetensors":
                return load_file(file)
            print(f"{file} is damaged; it is removed and not resumed from.", file=sys.stderr, flush=True)
            file.unlink()
        return None

    def _files(self) -> list[Path]:
        return list(self._folder.glob(f"{self._name}-{'[0-9a-f]' * 64}.safetensors"))
