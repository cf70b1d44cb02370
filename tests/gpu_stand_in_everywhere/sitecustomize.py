"""In a folder of PYTHONPATH: each process that imports torch has the stand-in for a GPU, and notes so in $STAND_INS."""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any


def torch(module: ModuleType) -> None:
    import gpu_stand_in  # noqa: F401

    with Path(os.environ["STAND_INS"]).open("a") as file:
        file.write(f"{Path(sys.argv[0]).stem}\n")


def variables(module: Any) -> None:
    module.has_gpu = lambda: True  # which asks no torch; a process with a GPU is forked from none


AFTER = {"torch": torch, "epsilon_dpo.pipeline.stage.variables": variables}


class After(MetaPathFinder):
    """Calls what AFTER has for a module once it is imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in AFTER else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:  # transformers looks for torch's spec before it imports torch
            execute(module)
            AFTER[name](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, After())
