"""CONTRIBUTING.md: a new method takes one file, one test file and one line in params.yaml, and nothing else.

Its example is added to a copy of the repository, where the tests that look at methods and runs must pass.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^`([\w./]+)`[^\n]*:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
METHOD, TEST = "src/epsilon_dpo/methods/dpo_norm.py", "tests/methods/test_dpo_norm.py"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files as they are on disk, with the example added, in a repository of their own."""
    root = tmp_path_factory.mktemp("copy")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    blocks = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    assert [path for path, _ in blocks] == [METHOD, TEST, "params.yaml"]
    for path, text in blocks:
        if path == "params.yaml":
            before = (root / path).read_text("utf-8")
            assert text.count("\n") == 1 and before.count("\nruns:\n") == 1
            text = before.replace("\nruns:\n", f"\nruns:\n{text}")
        else:
            assert not (root / path).exists()
        (root / path).write_text(text, "utf-8")
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def python(copy: Path, *arguments: str) -> str:
    """What `python -m arguments` prints in the copy, which must succeed there and import the copy's package."""
    environment = {**os.environ, "PYTHONPATH": str(copy / "src")}
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_is_accepted_tested_and_trained(copy: Path) -> None:
    """The tests that look at params.yaml or at the folder of methods, of those of each run the new one's."""
    python(copy, "epsilon_dpo.check.params_file")
    python(copy, "ruff", "check", METHOD, TEST)
    python(copy, "ruff", "format", "--check", METHOD, TEST)
    whole = ("test_params", "test_presets", "test_readme", "test_methods_doc", "test_dag")
    chosen = f"({' or '.join(['dpo_norm', *whole])}) and not test_a_stage_imports_nothing_heavy"
    files = [f"tests/{name}.py" for name in whole]
    files += [TEST, "tests/methods/test_dpo.py", "tests/test_rerun.py", "tests/training/alignment/test_every_method.py"]
    printed = python(copy, "pytest", "-vv", "-p", "no:cacheprovider", "-k", chosen, *files)
    for name in ("test_worked_example", "[runs.dpo_norm.beta]", "test_hard_cases_stay_finite", "[dpo_norm]"):
        assert name in printed  # what was deselected did not pass


@pytest.mark.slow
def test_the_example_survives_kills_and_leaves_the_other_runs_alone(copy: Path) -> None:
    """mypy, every leaf of params.yaml against the stages it re-runs, the imports of each stage, all methods."""
    python(copy, "mypy")
    python(copy, "pytest", "-p", "no:cacheprovider", "tests/test_dag.py", "tests/test_rerun.py", "tests/methods")
    printed = python(copy, "pytest", "-vv", "-p", "no:cacheprovider", "-k", "dpo_norm", "tests/training")
    assert "[dpo_norm]" in printed
