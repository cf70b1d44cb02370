"""The import closure of a stage: every project file that its Python code can import, found by reading the source.

DVC does not follow imports, so an undeclared one gives silently stale results. Run as a script, it prints the `deps`
that dvc.yaml should hold for each stage:

    python tests/closure.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "epsilon_dpo"
# Loaded by name from params.yaml: dvc.yaml names the one file with ${item.method}.
METHODS_BY_NAME = "src/epsilon_dpo/methods/${item.method}.py"
REGISTRY = PACKAGE / "methods" / "registry.py"
# Package data that a module reads when it runs, declared beside the module that reads it.
TEMPLATES = ("*.jinja", "*.html", "*.css")


def imported_files(file: Path) -> set[Path]:
    """The project files that `file` imports anywhere in it, also inside functions, or runs as a process of its own.

    Of these it has the file's name as a text; they lie beside it.
    """
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".py"):
            found |= {path for path in [file.parent / node.value] if path.is_file()}
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise AssertionError(f"{file}: relative import; write the absolute name")
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            path = ROOT / "src" / Path(*name.split("."))
            if name.startswith("epsilon_dpo") and path.with_suffix(".py").is_file():
                found.add(path.with_suffix(".py"))
    return found


def closure(start: Path) -> list[Path]:
    """All project files reachable from `start`, `start` included, sorted; `__init__` files hold no code (tested)."""
    seen: set[Path] = set()
    waiting = [start]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            waiting += imported_files(file)
    return sorted(seen)


def template_files(modules: list[Path]) -> set[Path]:
    """Package data whose file name stands as text in one of `modules`."""
    source = "".join(module.read_text("utf-8") for module in modules)
    return {path for pattern in TEMPLATES for path in PACKAGE.rglob(pattern) if path.name in source}


def code_deps(stage: str) -> list[str]:
    """What `deps` of `stage` must hold of the project's code, as paths relative to the root."""
    modules = closure(ROOT / "stages" / f"{stage}.py")
    deps = {str(path.relative_to(ROOT)) for path in [*modules, *template_files(modules)]}
    if REGISTRY in modules and stage == "align":
        deps.add(METHODS_BY_NAME)
    elif REGISTRY in modules:  # looks at every method
        deps = {dep for dep in deps if not dep.startswith("src/epsilon_dpo/methods/")} | {"src/epsilon_dpo/methods"}
    return sorted(deps)


if __name__ == "__main__":
    for path in sorted((ROOT / "stages").glob("[a-z]*.py")):
        print(f"{path.stem}:\n  " + "\n  ".join(code_deps(path.stem)))
