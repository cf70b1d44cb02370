"""How many bytes of tensors are alive at once while code runs on tensors without memory.

Under torch's FakeTensorMode every operation yields shapes, types and lifetimes, but no numbers and no memory: a step of
an 8B model runs so in seconds on a laptop. `LiveBytes` sees each tensor's storage appear and go, autograd's saved
tensors among them. What a kernel allocates inside itself it does not see.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

WEIGHTS, REFERENCE, GRADIENTS = "weights", "reference", "gradients"
COPIES = "copies"  # of weights, in the type that autocast computes in
ACTIVATIONS, HEAD = "activations", "head"
KEPT = (WEIGHTS, REFERENCE, GRADIENTS)  # what FSDP shards; all else lives on every GPU


class LiveBytes(TorchDispatchMode):
    """Counts bytes of living storages by label.

    Attributes:
        label: what a new storage is counted as.
        peak: bytes by label at the moment when their sum was largest.
        working_peak: the same of the moment when the sum without `KEPT` was largest.
    """

    def __init__(self) -> None:
        super().__init__()
        self.label = WEIGHTS
        self.now: Counter[str] = Counter()
        self._labels: dict[int, str] = {}  # of each living storage, by its address
        self._alive: dict[int, weakref.ref[Any]] = {}
        self.forget_peaks()

    def forget_peaks(self) -> None:
        self.peak, self.working_peak = Counter(self.now), Counter(self.now)

    def relabel(self, tensors: Iterable[Tensor], label: str) -> None:
        for tensor in tensors:
            address, size = tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes()
            self.now[self._labels[address]] -= size
            self.now[label] += size
            self._labels[address] = label

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        label = self.label
        if label == ACTIVATIONS and func is torch.ops.aten._to_copy.default and self._is_weight(args[0]):
            label = COPIES
        for made in tree_iter(out):
            if isinstance(made, Tensor):
                self._see(made.untyped_storage(), label)
        return out

    def _is_weight(self, tensor: Tensor) -> bool:
        return self._labels.get(tensor.untyped_storage()._cdata) in (WEIGHTS, REFERENCE)

    def _see(self, storage: Any, label: str) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._alive:
            return

        def gone(_: Any) -> None:
            del self._alive[address]
            self.now[self._labels.pop(address)] -= size

        self._alive[address] = weakref.ref(storage, gone)
        self._labels[address] = label
        self.now[label] += size
        if self.now.total() > self.peak.total():
            self.peak = Counter(self.now)
        if working(self.now) > working(self.working_peak):
            self.working_peak = Counter(self.now)


def working(live: Mapping[str, int]) -> int:
    """Bytes of what is neither weights nor their gradients."""
    return sum(size for label, size in live.items() if label not in KEPT)


@contextmanager
def without_memory() -> Iterator[LiveBytes]:
    """Inside, new tensors have no memory, and what is returned counts what they would take."""
    with FakeTensorMode(), LiveBytes() as live:
        yield live
