"""pins.yaml against requirements.txt, and what closure.py says of packages against what they say of themselves.

That each stage declares its pins: tests/test_dag.py.
"""

import sys
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from epsilon_dpo.pipeline.stage.params import read_yaml

sys.path.insert(0, str(Path(__file__).parent))
from closure import BRINGS, NOT_PINNED, ROOT, stage_pins, third_party_names

STAGES = read_yaml(ROOT / "dvc.yaml")["stages"]


def test_pins_are_those_of_requirements_and_no_more_than_stages_declare() -> None:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    required = dict(line.split("==") for line in lines if "==" in line)
    pins = read_yaml(ROOT / "pins.yaml")
    assert pins == {package: required.get(package) for package in pins}
    assert set(pins) == {package for stage in STAGES for package in stage_pins(stage)}


def test_a_package_without_a_pin_is_imported_somewhere_and_so_is_what_brings_others() -> None:
    """Or the reason is that of a package that nobody uses."""
    scripts = [*(ROOT / "stages").glob("[a-z]*.py"), *(ROOT / "external").glob("*.py")]
    names = set().union(*map(third_party_names, scripts))
    assert set(BRINGS) <= names | (tops := {name.split(".")[0] for name in names})
    assert set(NOT_PINNED) <= tops
    assert not {"torch", "numpy", "transformers", "tokenizers", "safetensors", "trl", "peft"} & set(NOT_PINNED)


def test_what_imports_bring_along_is_required_by_them() -> None:
    """BRINGS says nothing that their metadata does not, but that transformers renders chat templates with Jinja2."""
    for name, packages in BRINGS.items():
        package = {"sklearn": "scikit-learn"}.get(name, name.split(".")[0])
        needed: set[str] = set()
        waiting = [package]
        while waiting:
            for line in requires(waiting.pop()) or []:
                asked = Requirement(line)
                if (asked.marker is None or asked.marker.evaluate({"extra": ""})) and asked.name not in needed:
                    needed.add(asked.name)
                    waiting.append(asked.name)
        more = {"transformers": {"jinja2"}}.get(name, set())
        assert set(map(canonicalize_name, packages)) <= set(map(canonicalize_name, needed)) | more, name
