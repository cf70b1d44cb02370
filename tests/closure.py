"""The import closure of a stage: every project file that its Python code can import, found by reading the source.

DVC does not follow imports, so an undeclared one gives silently stale results. A stage declares the folders (rooms)
of its closure; a method stays a file. Run as a script, it prints the `deps` that dvc.yaml should hold for each stage,
and the files that they cover without need; and what its `params` should hold of pins.yaml, the packages whose code can
change the stage's output:

    python tests/closure.py
"""

import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from epsilon_dpo.pipeline.code import imports
from epsilon_dpo.pipeline.code.imports import imported_names

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "epsilon_dpo"
METHODS = "src/epsilon_dpo/methods"
# Loaded by name from params.yaml: dvc.yaml names the one file with ${item.method}.
METHODS_BY_NAME = f"{METHODS}/${{item.method}}.py"
REGISTRY = PACKAGE / "methods" / "registry.py"
# What an online run needs beside the rest of stage align, which imports this file by name. Stage scorer writes a hash
# of it (judging/scorer/code.py).
ALIGN, SCORER = ROOT / "stages" / "align.py", ROOT / "stages" / "scorer.py"
ONLINE = PACKAGE / "judging" / "scorer" / "online_training.py"
# In every closure, yet no output depends on it (tests/data_deps.py): a comment there must not retrain a policy.
EXEMPT = {
    "src/epsilon_dpo/pipeline/observability/child.py": "starts the process that writes to MLflow",
    "src/epsilon_dpo/pipeline/observability/errors.py": "errors, after which there is no output, and what is printed",
    "src/epsilon_dpo/pipeline/observability/progress.py": "draws progress bars",
    "src/epsilon_dpo/pipeline/observability/tracker.py": "copies results to MLflow, where nothing is read",
}

# Packages that are imported and not pinned for a stage, by import name: no output depends on their code, or they are no
# part of this environment.
NOT_PINNED = {
    "alpaca_eval": "lies in an environment of its own (external/make_environment.sh)",
    "bitsandbytes": "is installed by hand where a GPU is (docs/howto.md), at a version that no file of ours states",
    "httpx2": "fetches; the files are those of a commit, and of it we import the classes of errors",
    "huggingface_hub": "fetches files of a pinned commit, and cuts weights into files whose size transformers states",
    "jsonschema": "refuses rows or hands them on as they are",
    "openai": "sends what we write; the answers are the endpoint's",
    "psutil": "looks whether dvc still runs",
    "pydantic": "refuses values or hands them on as they are",
    "ruamel": "reads params.yaml, whose values DVC compares itself",
    "setproctitle": "names a process in what ps shows",
    "threadpoolctl": "sets the number of threads, which params.yaml states",
    "tqdm": "draws progress bars",
    "vllm": "lies in an environment of its own (Makefile), with a torch of its own",
    "yaml": "is asked for the class of its errors; `datasets` reads the cards of datasets with it",
}
# What an import brings along that decides bytes or numbers although our files need not import it. Complete: what these
# bring along in turn stands here too. Of the rest of requirements.txt nothing is computed or written with in a stage.
BRINGS = {
    "datasets": ["pyarrow"],  # which holds the rows
    "great_expectations": ["numpy", "pandas"],  # which count
    "jinja2.Environment": ["MarkupSafe"],  # which escapes what stands on a page
    "matplotlib": ["kiwisolver", "numpy", "pillow"],  # kiwisolver arranges, pillow writes the PNG
    "sklearn": ["numpy", "scipy"],  # scipy has the optimiser of the logistic regression
    # tokenizers has the ids, safetensors the weights' file, Jinja2 the chat template's text.
    "transformers": ["Jinja2", "safetensors", "tokenizers"],
    # accelerate has batches, precision and clipping, datasets the rows of a training.
    "trl": ["Jinja2", "accelerate", "datasets", "pyarrow", "safetensors", "tokenizers", "torch", "transformers"],
}


def closure(start: Path) -> list[Path]:
    """All project files reachable from `start`, `start` included, sorted; `__init__` files hold no code (tested).

    Of what online runs need stage scorer has the files in rooms that stage align does not depend on.
    """
    if start != SCORER:
        return imports.closure(start, ROOT)
    rooms = {file.parent for file in closure(ALIGN)}
    return sorted(_without_online(start) | {file for file in closure(ONLINE) if file.parent not in rooms})


def _without_online(start: Path) -> set[Path]:
    """The closure of `start` as if no file named ONLINE."""
    found, waiting = {start}, [start]
    while waiting:
        new = imports.imported_files(waiting.pop(), ROOT) - found - {ONLINE}
        found |= new
        waiting += new
    return found


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


def third_party_names(start: Path) -> set[str]:
    """Dotted names of other people's code that the files of `start`'s closure import, also those loaded by name."""
    files = {ROOT / file for file in needed_files(start)}
    if REGISTRY in files:
        files |= set((ROOT / METHODS).glob("*.py"))
    names = {name for file in files for name in imported_names(file)}
    return {name for name in names if name.split(".")[0] not in {*sys.stdlib_module_names, "epsilon_dpo"}}


distributions = cache(packages_distributions)


def pins(start: Path) -> list[str]:
    """What the `params` of the stage whose script is `start` must hold of pins.yaml: packages as pip names them."""
    found: set[str] = set()
    for name in third_party_names(start):
        top = name.split(".")[0]
        if top not in NOT_PINNED:
            found |= {distributions()[top][0], *BRINGS.get(top, []), *BRINGS.get(name, [])}
    return sorted(found, key=str.lower)


def stage_pins(stage: str) -> list[str]:
    """`pins` of a stage of dvc.yaml; the output of `check` is constant."""
    return [] if stage == "check" else pins(ROOT / "stages" / f"{stage}.py")


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
        print(f"  pins.yaml: [{', '.join(stage_pins(path.stem))}]")
        if path.stem != "check":
            print("  without need: " + " ".join(sorted(covered_without_need(path.stem))))
