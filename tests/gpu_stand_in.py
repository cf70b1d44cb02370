"""A GPU for machines without one: the processor computes, and each tensor says where a GPU would have it.

    python -m pytest -p gpu_stand_in FILE...    # in pytest's process, torch.cuda is there from then on

What a first run on a GPU stumbles over is refused as there: tensors of two devices in one operation, numpy asked of a
tensor on the GPU, random numbers drawn there by a generator of the processor. STOPS counts what would let the host wait
for the device. Numbers are the processor's, autocast's lists of operations too; nothing is compiled, nothing is faster.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # read when torch is imported: the compiler knows no such device

import torch
from torch import Tensor
from torch._C import _len_torch_function_stack
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
STOPS: Counter[str] = Counter()
aten = torch.ops.aten

# Operations that take tensors of both devices.
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
PUTS = INDEXING - {aten.index.Tensor}
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default}
# Operations whose result the host must know before it can go on, beside indexing by a mask.
ASKED = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}
OF_NUMBERS = {aten.fill_.Tensor, aten.masked_fill.Tensor, aten.masked_fill_.Tensor}  # which take one of a processor
OF_DATA = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor)
OF_ITS_DEVICE = (Tensor.new_tensor, Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_empty)
ATTRIBUTES = {
    Tensor.device.__get__: GPU,
    Tensor.is_cuda.__get__: True,
    Tensor.is_cpu.__get__: False,
    Tensor.get_device: 0,
}


def is_on_gpu(x: Tensor) -> bool:
    return x.layout is torch.strided and getattr(x.untyped_storage(), "is_of_gpu", False)


def put(found: Any, on_gpu: bool) -> Any:
    """`found`, whose tensors say from now on that they are there, with all that share their memory."""
    for x in tree_iter(found):
        if isinstance(x, Tensor) and x.layout is torch.strided and not x.is_meta:
            x.untyped_storage().is_of_gpu = on_gpu
    return found


def names_gpu(device: Any) -> bool | None:
    """None: it names neither a GPU nor the processor."""
    kind = "cuda" if type(device) is int else torch.device(device).type if isinstance(device, str) else device
    return {"cuda": True, "cpu": False}.get(getattr(kind, "type", kind))


class Move(torch.autograd.Function):
    """A copy on the other device, whose gradient is copied back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, on_gpu: bool, dtype: torch.dtype) -> Tensor:
        ctx.before = is_on_gpu(x), x.dtype
        return put(x.detach().clone().to(dtype), on_gpu)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        on_gpu, dtype = ctx.before
        return put(grad.detach().clone().to(dtype), on_gpu), None, None


def count_copy(to_gpu: bool, non_blocking: bool) -> None:
    STOPS[f"copy to the {'GPU' if to_gpu else 'processor'}"] += not (to_gpu and non_blocking)


def move(x: Tensor, on_gpu: bool, dtype: torch.dtype | None = None, non_blocking: bool = False) -> Tensor:
    if is_on_gpu(x) == on_gpu:
        return x.to(dtype or x.dtype)
    count_copy(on_gpu, non_blocking)
    return Move.apply(x, on_gpu, dtype or x.dtype)


class Operations(TorchDispatchMode):
    """Below autograd: each operation's devices are checked, and what it makes is where they are."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        there = [is_on_gpu(x) for x in tensors]
        for generator in tree_iter((args, kwargs)) if tensors else ():
            if isinstance(generator, torch._C.Generator):
                _refuse_generator(generator, any(there))
        if not any(there):
            return func(*args, **kwargs)
        _refuse_mixed(func, args, tensors, there)
        if func in PRODUCTS and not tensors[-1].is_floating_point():
            raise NotImplementedError(f"{func} is not implemented for {tensors[-1].dtype} on a GPU")
        if func in ASKED or _asks_mask(func, args):
            STOPS[str(func)] += 1
        if func is aten.copy_.default:
            if there[0] != there[1]:
                count_copy(there[0], args[2:] == (True,))
            return func(*args, **kwargs)
        return put(ONLY_ON_GPUS.get(func, func)(*args, **kwargs), True)


def _refuse_mixed(func: Any, args: tuple, tensors: list[Tensor], there: list[bool]) -> None:
    if func in COPIES:
        return
    if func in INDEXING:
        if not there[0]:
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        if func in PUTS and not is_on_gpu(args[2]) and args[2].dim():
            raise RuntimeError("expected device cuda:0 but got device cpu for value tensor")
        return
    changed = func._schema.name.endswith("_") and not there[0]
    each = torch.Tag.pointwise in func.tags or "_foreach" in func._schema.name or func in OF_NUMBERS
    if changed or not all(at or (each and x.dim() == 0) for at, x in zip(there, tensors, strict=True)):
        places = ", ".join(f"{'cuda' if at else 'cpu'} {list(x.shape)}" for at, x in zip(there, tensors, strict=True))
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} of {places}")


def _refuse_generator(generator: Any, on_gpu: bool) -> None:
    if is_of_gpu(generator) != on_gpu:
        wanted, found = ("cuda", "cpu") if on_gpu else ("cpu", "cuda")
        raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{found}'")


def _asks_mask(func: Any, args: tuple) -> bool:
    """Whether it must be known how many a mask selects: not where one number is put there."""
    if func not in INDEXING or not any(x is not None and x.dtype == torch.bool for x in args[1]):
        return False
    return func not in PUTS or args[2].numel() > 1


def _addmm(total: Tensor, left: Tensor, right: Tensor, dtype: torch.dtype, *, out: Tensor) -> Tensor:
    return out.copy_(total + left.to(dtype) @ right.to(dtype))


# What a processor has not: products that keep sums of bfloat16 in float32, and counts of integers.
ONLY_ON_GPUS: dict[Any, Callable[..., Any]] = {
    aten.mm.dtype: lambda left, right, dtype: left.to(dtype) @ right.to(dtype),
    aten.addmm.dtype_out: _addmm,
    aten.histc.default: lambda x, *args, **kwargs: aten.histc.default(x.float(), *args, **kwargs).to(x.dtype),
}


class Devices(TorchFunctionMode):
    """Above autograd: what names a device, or asks for one."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = {key: value for key, value in (kwargs or {}).items() if key != "pin_memory"}
        if func in ATTRIBUTES:
            return ATTRIBUTES[func] if is_on_gpu(args[0]) else func(*args, **kwargs)
        if func is Tensor.backward:
            with self:  # which is off in what it calls
                return torch.autograd.backward(*args, grad_tensors=kwargs.pop("gradient", None), **kwargs)
        if func in (Tensor.register_hook, Tensor.register_post_accumulate_grad_hook):
            return func(args[0], among_devices(args[1]))
        if func in (Tensor.to, Tensor.type_as, Tensor.cuda, Tensor.cpu):
            return _to(func, *args, **kwargs)
        if func in (Tensor.pin_memory, Tensor.is_pinned):
            return args[0] if func is Tensor.pin_memory else False
        if func is Tensor.__deepcopy__:
            return put(func(*args, **kwargs), is_on_gpu(args[0]))
        if func in (Tensor.numpy, Tensor.__array__) and is_on_gpu(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it first.")
        if func is Tensor.tolist and is_on_gpu(args[0]):
            STOPS["tolist"] += 1
        on_gpu = names_gpu(kwargs.get("device"))
        if on_gpu is None and func in OF_ITS_DEVICE:
            on_gpu = is_on_gpu(args[0])
        if on_gpu is None:
            return func(*args, **kwargs)
        if kwargs.get("generator") is not None:
            _refuse_generator(kwargs["generator"], on_gpu)
        made = func(*args, **kwargs | {"device": CPU})
        if args and made is args[0]:
            return move(made, on_gpu)
        STOPS["copy to the GPU"] += on_gpu and func in OF_DATA
        return put(made, on_gpu)


def _to(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    non_blocking = kwargs.get("non_blocking", False)
    if func in (Tensor.cuda, Tensor.cpu):
        return move(x, func is Tensor.cuda, non_blocking=non_blocking)
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for one in args:
        if isinstance(one, Tensor):
            device, dtype = GPU if is_on_gpu(one) else CPU, one.dtype
        elif isinstance(one, torch.dtype):
            dtype = one
        elif names_gpu(one) is not None:
            device = one
    on_gpu = names_gpu(device)
    if on_gpu is None:
        return x.to(*args, **kwargs)
    if is_on_gpu(x) == on_gpu:
        return x.to(dtype or x.dtype, copy=kwargs.get("copy", False))
    return move(x, on_gpu, dtype, non_blocking)


def among_devices(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which autograd's engine calls without the modes of functions."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _len_torch_function_stack():
            return function(*args, **kwargs)
        with Devices():
            return function(*args, **kwargs)

    return call


OF_GPU: set[int] = set()  # generators, by their address


class Generator(torch._C.Generator):
    def __new__(cls, device: Any = "cpu") -> "Generator":
        made = super().__new__(cls, "cpu")
        (OF_GPU.add if names_gpu(device) else OF_GPU.discard)(made._cdata)
        return made

    @property
    def device(self) -> torch.device:
        return GPU if is_of_gpu(self) else CPU


def is_of_gpu(generator: Any) -> bool:
    return generator._cdata in OF_GPU


def of_functions(cls: type) -> None:
    """What torch.autograd.Function does with each class that is one."""
    if "backward" in vars(cls):
        cls.backward = staticmethod(among_devices(vars(cls)["backward"].__func__))


def by_device(group: Callable[..., Any]) -> Callable[..., Any]:
    """What clipping and optimizers ask, which looks for the devices itself; a list is of one device."""

    def grouped(lists: Any, *args: Any) -> Any:
        on_gpu = any(x is not None and is_on_gpu(x) for x in lists[0])
        return {(GPU if on_gpu else at, dtype): rest for (at, dtype), rest in group(lists, *args).items()}

    return grouped


def install() -> None:
    """For the rest of the process: what torch imports after this finds a GPU."""
    torch.cuda.__dict__.update(CUDA)
    torch.cuda.random.__dict__.update(CUDA)
    torch.Generator = Generator
    torch.autograd.Function.__init_subclass__ = classmethod(of_functions)
    torch._C._group_tensors_by_device_and_dtype = by_device(torch._C._group_tensors_by_device_and_dtype)
    hooks = torch.autograd.graph.saved_tensors_hooks
    keep = hooks.__init__
    hooks.__init__ = lambda self, pack, unpack: keep(self, among_devices(pack), among_devices(unpack))
    autocast = torch.autocast.__init__
    torch.autocast.__init__ = lambda self, device_type, *args, **kwargs: autocast(self, "cpu", *args, **kwargs)
    for name in ("is_autocast_enabled", "get_autocast_dtype"):
        setattr(torch, name, functools.partial(lambda asked, kind="cpu": asked("cpu"), getattr(torch, name)))
    Operations().__enter__()
    Devices().__enter__()


PROPERTIES = SimpleNamespace(name="none", total_memory=80 * 2**30, major=9, minor=0, multi_processor_count=132)
CUDA: dict[str, Callable[..., Any]] = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "is_bf16_supported": lambda *args, **kwargs: True,
    "is_current_stream_capturing": lambda: False,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "get_device_name": lambda device=None: PROPERTIES.name,
    "get_device_capability": lambda device=None: (9, 0),
    "get_device_properties": lambda device=None: PROPERTIES,
    "get_arch_list": lambda: ["sm_90"],
    "mem_get_info": lambda device=None: (PROPERTIES.total_memory, PROPERTIES.total_memory),
    "max_memory_allocated": lambda device=None: 0,
    "synchronize": lambda device=None: None,
    "empty_cache": lambda: None,
    "manual_seed": lambda seed: None,
    "manual_seed_all": lambda seed: None,
    "get_rng_state": lambda device=0: torch.get_rng_state(),
    "get_rng_state_all": lambda: [torch.get_rng_state()],
    "set_rng_state": lambda state, device=0: None,
    "set_rng_state_all": lambda states: None,
}

install()
