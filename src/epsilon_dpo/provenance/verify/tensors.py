"""Two versions of a file of weights, tensor by tensor."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from epsilon_dpo.provenance.verify.findings import NUMBER, Place, text_place


def tensor_places(recorded: Path, remade: Path) -> Iterator[Place]:
    """Every tensor that differs, by name, the layers by their number.

    Its relative difference is the largest |difference| divided by the largest magnitude in the tensor, because sums are
    rounded by the size of what they add up.
    """
    import torch  # two seconds, and only where weights differ
    from safetensors import safe_open

    with safe_open(recorded, "pt") as before, safe_open(remade, "pt") as after:
        names = set(before.keys()), set(after.keys())
        for name in sorted(names[0] | names[1], key=_order):
            if not all(name in side for side in names):
                yield text_place(f"tensor {name}", *("there" if name in side else "absent" for side in names))
                continue
            a, b = before.get_tensor(name), after.get_tensor(name)
            if (a.dtype, a.shape) != (b.dtype, b.shape):
                yield text_place(f"tensor {name}", *(f"{t.dtype} {tuple(t.shape)}" for t in (a, b)))
            elif not torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)):
                yield _place(name, a, b)


def _place(name: str, recorded: Any, remade: Any) -> Place:
    """Of two torch tensors of one type and shape whose bits differ."""
    a, b = recorded.double().flatten(), remade.double().flatten()
    differing = (a != b) & ~(a.isnan() & b.isnan())
    if not differing.any():  # signs of zeros, NaNs of other bits
        return Place(f"tensor {name}", NUMBER, "the same values", "other bits", 0.0)
    first = int(differing.nonzero()[0])
    largest = (a - b).abs()[differing].max().item()
    where, values = f"tensor {name}[{first}]", (repr(a[first].item()), repr(b[first].item()))
    if not recorded.is_floating_point():
        return text_place(where, *values)
    if not math.isfinite(largest):
        return Place(where, NUMBER, *values, math.inf)
    scale = max(side[side.isfinite()].abs().max().item() for side in (a, b))  # an inf that both have is no scale
    return Place(where, NUMBER, *values, largest / scale)


def _order(name: str) -> list[tuple[bool, int, str]]:
    """For sorting: layer 10 behind layer 9."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]
