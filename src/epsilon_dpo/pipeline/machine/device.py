"""Where sampling, judging and KL compute: the CUDA GPU if there is one, else the CPU."""

from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def on_device(model: Module) -> Module:
    """`model` itself, moved there and in evaluation mode."""
    nn.Module.to(model, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return model.eval()
