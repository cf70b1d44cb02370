"""CONTRIBUTING.md: a new method takes one file, one test file and one line in params.yaml, and nothing else.

Its example is added to a copy of the repository, where the tests that look at methods and runs must pass.
"""

from pathlib import Path

import pytest
from recipes import ROOT, add_all, blocks, copy_repository, python, write_new

METHOD, TEST = "src/epsilon_dpo/methods/dpo_hinge.py", "tests/methods/test_dpo_hinge.py"
IMPORTS = "test_stages_import_nothing_heavy"  # a process for each group of stages, whatever the method


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files as they are on disk, with the example added, in a repository of their own."""
    root = copy_repository(tmp_path_factory.mktemp("copy"))
    found = blocks("CONTRIBUTING.md", "A new method")
    assert [block.path for block in found] == [METHOD, TEST, "params.yaml"]
    for block in found:
        if block.path == "params.yaml":
            before = (root / block.path).read_text("utf-8")
            assert block.text.count("\n") == 1 and before.count("\nruns:\n") == 1
            (root / block.path).write_text(before.replace("\nruns:\n", f"\nruns:\n{block.text}"), "utf-8")
        else:
            write_new(root, block)
    add_all(root)
    return root


@pytest.mark.slow
def test_the_example_is_accepted_tested_and_trained(copy: Path) -> None:
    """The tests that look at params.yaml or at the folder of methods, of those of each run the new one's."""
    python(copy, "-m", "epsilon_dpo.check.params_file")
    python(copy, "-m", "ruff", "check", METHOD, TEST)
    python(copy, "-m", "ruff", "format", "--check", METHOD, TEST)
    holding = ("check/test_params_file", "test_presets", "test_readme", "methods/test_methods_doc", "test_dag")
    names = " or ".join(name.split("/")[-1] for name in ("dpo_hinge", *holding))
    assert f"def {IMPORTS}" in (ROOT / "tests/test_dag.py").read_text("utf-8"), "it has another name"
    chosen = f"({names}) and not {IMPORTS}"
    files = [f"tests/{name}.py" for name in holding]
    files += [TEST, "tests/methods/test_dpo.py", "tests/test_rerun.py", "tests/training/alignment/test_every_method.py"]
    printed = python(copy, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "-k", chosen, *files)
    for name in ("test_worked_example", "[runs.dpo_hinge.beta]", "test_hard_cases_stay_finite", "[dpo_hinge]"):
        assert name in printed  # what was deselected did not pass
    assert IMPORTS not in printed


@pytest.mark.slow
@pytest.mark.campaign  # the test above runs what is specific to the new method
def test_the_example_survives_kills_and_leaves_the_other_runs_alone(copy: Path) -> None:
    """mypy, every leaf of params.yaml against the stages it re-runs, the imports of each stage, all methods."""
    python(copy, "-m", "mypy")
    python(copy, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_dag.py", "tests/test_rerun.py", "tests/methods")
    printed = python(copy, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "-k", "dpo_hinge", "tests/training")
    assert "[dpo_hinge]" in printed
