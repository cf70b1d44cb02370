"""Methods by name: `method: dpo` in params.yaml is the class `METHOD` of methods/dpo.py.

Nothing here names a method, and a method is imported when a run asks for it: a run depends on its own method only.
"""

import difflib
from importlib import import_module
from pathlib import Path
from typing import Any

from epsilon_dpo.methods.online import AnyMethod, OnlineMethod
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.params import PARAMS_FILE, parse, shown

NOT_METHODS = {"__init__", "interface", "online", "registry"}
ELSEWHERE = "move it out of the folder of methods"


def method_names() -> list[str]:
    """Every method of this folder, sorted; an editor's or a system's files beside them have names that are none."""
    names = (file.stem for file in Path(__file__).parent.glob("*.py"))
    return sorted(name for name in names if name.isidentifier() and name not in NOT_METHODS)


def online_method_names() -> list[str]:
    """Those that learn from scores of their own answers, sorted."""
    return [name for name in method_names() if issubclass(_class_of(name), OnlineMethod)]


def _class_of(method: str) -> type[AnyMethod]:
    """
    Raises:
        UserError: methods/<method>.py is not valid Python, or holds no method.
    """
    try:
        module = import_module(f"epsilon_dpo.methods.{method}")
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}; correct it, or {ELSEWHERE}.") from None
    except ImportError as error:
        raise UserError(f"methods/{method}.py cannot be imported ({error}); correct it, or {ELSEWHERE}.") from None
    found: type[AnyMethod] | None = getattr(module, "METHOD", None)
    if not isinstance(found, type):
        raise UserError(f"{module.__file__} has no METHOD, so it is no method; give it one, or {ELSEWHERE}.")
    return found


def method_of(name: str, config: dict[str, Any], file: Path = PARAMS_FILE) -> AnyMethod:
    """The method of run `name` at its starting state; `config` is the run's entry in `file`.

    Raises:
        UserError: no such method, an unknown or missing key, or a value that the method refuses.
    """
    where = f"runs.{name}"
    names = method_names()
    if "method" not in config:
        raise UserError(f"{file}: key '{where}.method' is missing; add one of: {', '.join(names)}.")
    method = config["method"]
    if method not in names:
        near = difflib.get_close_matches(str(method), names, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"{file}: {where}.method = {shown(method)} is unknown; {hint}Methods: {', '.join(names)}.")
    found = _class_of(method)
    return found(parse(found.Config, config, where, file))
