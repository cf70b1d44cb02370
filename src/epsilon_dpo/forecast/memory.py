"""From a simulated step to the memory of one GPU: what AdamW keeps, and what several GPUs shard.

AdamW keeps two values per trained parameter in the parameter's own type, 8 bytes in float32 (Rajbhandari et al. 2020,
"ZeRO", arXiv 1910.02054, section 3.1); the fused form that the stages use has no temporaries.
"""

from collections import Counter
from dataclasses import dataclass, fields

from epsilon_dpo.forecast.architecture import Sizes
from epsilon_dpo.forecast.live import ACTIVATIONS, COPIES, GRADIENTS, HEAD, REFERENCE, WEIGHTS
from epsilon_dpo.forecast.simulation import Simulated

# NF4 with quantised constants: 4 bits, 8 per 64 weights, 32 per 64 x 256 (Dettmers et al. 2023, arXiv 2305.14314).
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the highest moment.

    Attributes:
        head: tiles of logits and the gradients that the output projection makes.
        other: copies of weights in bfloat16 (autocast), buckets of gradients (DDP), gathered layers (FSDP).
    """

    weights: float
    gradients: float
    optimizer: float
    reference: float
    activations: float
    head: float
    other: float

    @property
    def total(self) -> float:
        return sum(float(getattr(self, field.name)) for field in fields(self))


def unsharded(step: Simulated, processes: int = 1) -> Memory:
    """Every process holds everything; of several (DDP), each also the buckets in which gradients are averaged."""
    buckets = step.trained_bytes if processes > 1 else 0
    peak = step.peak
    return Memory(
        weights=peak[WEIGHTS],
        gradients=peak[GRADIENTS],
        optimizer=2 * step.trained_bytes,
        reference=peak[REFERENCE],
        activations=peak[ACTIVATIONS],
        head=peak[HEAD],
        other=peak[COPIES] + buckets,
    )


def quantised(step: Simulated, sizes: Sizes) -> Simulated:
    """QLoRA: `step` with float32 weights, whose projections are in 4 bits, one at a time in bfloat16."""
    saved = sizes.projections * (4 - NF4_BYTES)
    peak = Counter({**step.peak, WEIGHTS: step.peak[WEIGHTS] - round(saved), COPIES: 2 * sizes.largest_projection})
    return step._replace(peak=peak)


def sharded(
    step: Simulated, sizes: Sizes, processes: int, frozen: int, master: int, stored: int, compute: int, models: int
) -> Memory:
    """FSDP2 (Zhao et al. 2023, arXiv 2304.11277): weights, gradients, AdamW and reference are divided by `processes`.

    A layer is gathered while it is computed and the next one meanwhile, and in the backward pass both have gradients
    that are not yet sharded. What belongs to no layer (embeddings, output projection) stays gathered. Gradients are
    sharded after every micro-batch (training/loop/whole_steps.py).

    Args:
        step: simulated with autocast that keeps no copies.
        frozen: bytes of the policy's weights that are not trained.
        master, stored, compute: bytes of a trained parameter, of one of a reference, and of a gathered one.
        models: policy and separate references.
    """
    working = step.working_peak
    return Memory(
        weights=(frozen + master * step.trained) / processes,
        gradients=master * step.trained / processes,
        optimizer=2 * master * step.trained / processes,
        reference=stored * sizes.parameters * (models - 1) / processes,
        activations=working[ACTIVATIONS],
        head=working[HEAD],
        other=working[COPIES] + compute * (models * sizes.outside_layers + 4 * sizes.largest_layer),
    )
