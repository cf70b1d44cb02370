"""Too little memory, as Python, safetensors, torch on a processor and torch on a GPU say it."""

import torch

TOO_LITTLE = [
    MemoryError(),
    MemoryError("Cannot allocate memory (os error 12)"),
    RuntimeError("unable to mmap 8 bytes from file <x>: Cannot allocate memory (12)"),
    RuntimeError("err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes. Error code 12"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 80 GiB"),
]
