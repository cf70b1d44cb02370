"""The import closure of a stage: every project file that its Python code can import, found by reading the source.

DVC does not follow imports, so an undeclared one gives silently stale results. A stage declares the folders (rooms)
of its closure; a method stays a file. Run as a script, it prints the `deps` that dvc.yaml should hold for each stage,
and the files that they cover without need:

    python tests/closure.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "epsilon_dpo"
METHODS = "src/epsilon_dpo/methods"
# Loaded by name from params.yaml: dvc.yaml names the one file with ${item.method}.
METHODS_BY_NAME = f"{METHODS}/${{item.method}}.py"
REGISTRY = PACKAGE / "methods" / "registry.py"
# In every closure, yet no output depends on it (tests/data_deps.py): a comment there must not retrain a policy.
EXEMPT = {
    "src/epsilon_dpo/pipeline/observability/errors.py": "the errors that end a stage, which then leaves no output",
    "src/epsilon_dpo/pipeline/observability/progress.py": "draws progress bars",
    "src/epsilon_dpo/pipeline/observability/tracker.py": "copies results to MLflow, where nothing is read",
}


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


def needed_files(start: Path) -> set[str]:
    """Files of the project's code that can change the outputs of the script `start`, relative to the root."""
    return {str(path.relative_to(ROOT)) for path in closure(start)} - set(EXEMPT)


def code_deps(stage: str) -> list[str]:
    """What `deps` of `stage` must hold of the project's code, as paths relative to the root."""
    if stage == "check":  # reads the parameters of every room; its output is constant
        return ["src/epsilon_dpo", "stages/check.py"]
    start = ROOT / "stages" / f"{stage}.py"
    return rooms(start, METHODS_BY_NAME if stage == "align" else METHODS)


def rooms(start: Path, methods: str = METHODS) -> list[str]:
    """The folders of the files that the script `start` needs; itself and the files of methods/ as files.

    Args:
        methods: what stands for the methods where the registry is imported, which loads them by name.
    """
    deps = set()
    for file in needed_files(start):
        folder = str(Path(file).parent)
        if ROOT / file == start or folder == METHODS:
            deps.add(file)
        else:
            deps.add(folder)
    if REGISTRY in closure(start):
        deps.add(methods)
    return sorted(dep for dep in deps if METHODS not in deps or not dep.startswith(f"{METHODS}/"))


def covered_files(dep: str) -> set[str]:
    """The files below a code dependency that can hold code or text: all but `__init__.py`, which holds a docstring."""
    path = ROOT / dep
    if path.is_file():
        return {dep}
    return {
        str(file.relative_to(ROOT))
        for file in path.rglob("*")
        if file.suffix in (".py", ".jinja", ".css") and file.name != "__init__.py"
    }


def covered_without_need(stage: str) -> set[str]:
    """Python files whose change re-runs `stage` although it never imports them: the price of naming folders.

    A stage that names the folder of all methods loads them all by name.
    """
    covered = set().union(*(covered_files(dep) for dep in code_deps(stage) if "$" not in dep and dep != METHODS))
    return {file for file in covered - needed_files(ROOT / "stages" / f"{stage}.py") if file.endswith(".py")}


if __name__ == "__main__":
    for path in sorted((ROOT / "stages").glob("[a-z]*.py")):
        print(f"{path.stem}:\n  " + "\n  ".join(code_deps(path.stem)))
        if path.stem != "check":
            print("  without need: " + " ".join(sorted(covered_without_need(path.stem))))
