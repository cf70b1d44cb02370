"""What of a Python source counts as code, and what a closure follows."""

from pathlib import Path

import pytest

from epsilon_dpo.pipeline.code.imports import closure, code_of
from epsilon_dpo.pipeline.observability.errors import UserError

SOURCE = '"""Doc."""\n\n\ndef f(x):\n    """Doc."""\n    return x + 1\n'


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("# comment\ndef f(x):\n    return x+1\n", True),
        ('def f(x):\n    "other doc"\n    return (x\n        + 1)\n', True),
        ("def f(x):\n    return x + 2\n", False),
        ("def f(x: int):\n    return x + 1\n", False),
        ('def f(x):\n    return x + 1\n\n\n"a text at the end"\n', False),
    ],
)
def test_comments_docstrings_and_layout_are_no_code(text: str, same: bool) -> None:
    assert (code_of(text, "x.py") == code_of(SOURCE, "x.py")) is same


def test_a_function_of_a_docstring_alone_is_one_without() -> None:
    assert code_of('class A:\n    """a"""\n', "x.py") == code_of('class A:\n    """b"""\n', "x.py")


def test_what_is_not_python_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.py: line 2 is not valid Python"):
        code_of("a = 1\ndef (\n", "x.py")
    (tmp_path / "x.py").write_text("from . import y\n")
    with pytest.raises(UserError, match=r"x\.py: line 1 has a relative import"):
        closure(tmp_path / "x.py", tmp_path)


def test_a_closure_follows_imports_in_functions_and_files_run_by_name(tmp_path: Path) -> None:
    package = tmp_path / "src/epsilon_dpo"
    package.mkdir(parents=True)
    for name, text in {
        "a": "def f():\n    from epsilon_dpo.b import g\n",
        "b": 'WORKER = "worker.py"\n',
        "worker": "import os\n",
        "c": "import os\n",
    }.items():
        (package / f"{name}.py").write_text(text)
    assert [file.name for file in closure(package / "a.py", tmp_path)] == ["a.py", "b.py", "worker.py"]
