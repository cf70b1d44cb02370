"""The machine that is asked about, and what is assumed of it."""

from dataclasses import dataclass
from typing import Literal

from epsilon_dpo.forecast.simulation import Device
from epsilon_dpo.training.loop.params import Training

# Of published trainings on several H100 40 to 46 % of the bf16 peak are reached (llm-foundry's benchmarks, 1B to 7B,
# FSDP); rows of unequal length, eager attention and a reference are slower.
MFU = 0.35
H100_BF16, H100_FP32 = 989e12, 67e12  # FLOP/s, NVIDIA's data sheet (SXM, dense)
CPU_CORE = 0.1e12  # float32 products by MKL on the machine of docs/performance.md
# Share of a GPU that a forecast leaves free: CUDA's context, NCCL's buffers, gaps between the allocator's blocks.
RESERVE = 0.1


@dataclass(frozen=True)
class Machine:
    """What the stages run on.

    Attributes:
        gpus: 0: the stages run on the CPU.
        memory: bytes of each; None: not asked.
        peak: FLOP/s of each, of a GPU in bfloat16; None: an H100's, or of `threads` cores.
        mfu: share of the peak that is reached.
        shard: whether several GPUs shard weights and states (FSDP2), or each holds all (DDP).
    """

    gpus: int = 1
    memory: float | None = None
    peak: float | None = None
    mfu: float = MFU
    shard: Literal["fsdp", "none"] = "fsdp"
    threads: int = 1

    @property
    def device(self) -> Device:
        return "cuda" if self.gpus else "cpu"

    @property
    def processes(self) -> int:
        return max(self.gpus, 1)

    @property
    def shards(self) -> bool:
        return self.shard == "fsdp" and self.gpus > 1

    def peak_in(self, bf16: bool) -> float:
        """FLOP/s of one process; in float32 a GPU has the share of its peak in bfloat16 that an H100 has."""
        if not self.gpus:
            return self.peak or CPU_CORE * self.threads
        peak = self.peak or H100_BF16
        return peak if bf16 else peak * H100_FP32 / H100_BF16

    def speed(self, bf16: bool) -> float:
        """FLOP/s that one process reaches."""
        return self.mfu * self.peak_in(bf16)


def accumulates(block: Training, processes: int) -> bool:
    """Whether a step has several micro-batches, the later of which find gradients."""
    return block.batch_size > block.micro_batch_size * processes
