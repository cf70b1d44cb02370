"""The import closure of a file: every project file that its Python code can import, found by reading the source."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from epsilon_dpo.pipeline.observability.errors import UserError


def imported_names(file: Path) -> Iterator[str]:
    """Dotted names of the modules that `file` imports anywhere in it, and of what it takes from them.

    Raises:
        UserError: as `imported_files`.
    """
    for node in _nodes(file):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise UserError(f"{file}: line {node.lineno} has a relative import; write the absolute name.")
            yield from (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names))


def imported_files(file: Path, root: Path) -> set[Path]:
    """The project files that `file` imports anywhere in it, also inside functions, or runs as a process of its own.

    A file run as a process is known by its name, a text ending in .py; it lies beside `file`.

    Args:
        root: the project's folder, which holds src/epsilon_dpo.

    Raises:
        UserError: `file` is not valid Python, or has a relative import.
    """
    found = set()
    for node in _nodes(file):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and value.endswith(".py") and (file.parent / value).is_file():
            found.add(file.parent / value)
    for name in imported_names(file):
        path = root / "src" / Path(*name.split("."))
        if name.startswith("epsilon_dpo") and path.with_suffix(".py").is_file():
            found.add(path.with_suffix(".py"))
    return found


def closure(start: Path, root: Path) -> list[Path]:
    """All project files reachable from `start`, `start` included, sorted; `__init__` files hold no code (tested).

    Raises:
        UserError: as `imported_files`.
    """
    seen: set[Path] = set()
    waiting = [start]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            waiting += imported_files(file, root)
    return sorted(seen)


def _nodes(file: Path) -> list[ast.AST]:
    return _walked(file.read_text("utf-8"), str(file))


@cache
def _walked(text: str, name: str) -> list[ast.AST]:
    """By content and not by path: most files are in the closure of several stages."""
    return list(ast.walk(parsed(text, name)))


def parsed(text: str, name: str) -> ast.Module:
    """The syntax tree of a Python source.

    Raises:
        UserError: it is not valid Python; `name` says whose it is.
    """
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise UserError(f"{name}: line {error.lineno} is not valid Python ({error.msg}); correct it.") from None


def code_of(text: str, name: str) -> str:
    """What a Python source does: its syntax tree without docstrings, in which comments and layout leave no trace.

    Raises:
        UserError: it is not valid Python.
    """
    tree = parsed(text, name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return ast.dump(tree)
