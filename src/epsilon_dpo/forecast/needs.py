"""What one stage needs, as the table and the JSON show it."""

from dataclasses import dataclass, field

from epsilon_dpo.forecast.machine import Machine
from epsilon_dpo.forecast.memory import Memory


@dataclass(frozen=True)
class Disk:
    """Bytes: of results in out/, which DVC's cache holds once more; of checkpoints and merged copies in scratch/."""

    out: float
    scratch: float = 0.0


@dataclass(frozen=True)
class Needs:
    """A line of the table.

    Attributes:
        stage: by its name in dvc.yaml, with what of it is meant where it has several lines.
        runs: of params.yaml, if it runs once for each.
        memory: on each GPU, of one run; None: not known.
        gpus: that one run uses.
        flops, hours: of all runs, one after the other; None: not known.
        note: what is not counted, or why nothing is known.
    """

    stage: str
    runs: list[str]
    memory: Memory | None
    gpus: int
    flops: float | None
    hours: float | None
    disk: Disk = field(default_factory=lambda: Disk(0.0))
    note: str = ""


def hours(flops: float | None, machine: Machine, bf16: bool, processes: int | None = None) -> float | None:
    """At the assumed share of the peak; `processes` None: on all GPUs."""
    count = machine.processes if processes is None else processes
    return None if flops is None else flops / (machine.speed(bf16) * count) / 3600
