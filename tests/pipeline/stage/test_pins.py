"""A stage runs with the packages that dvc.yaml declares for it, at the versions of pins.yaml, or not at all."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.pipeline.stage import pins
from epsilon_dpo.pipeline.stage.execution import run_stage
from epsilon_dpo.pipeline.stage.fingerprint import declared_params, declared_pins, fingerprint, stage_entry

DVC_YAML = """
stages:
  demo:
    cmd: python -m stages.demo
    params: [seed, pins.yaml: [numpy, scikit-learn]]
    outs: [out/demo]
"""
HERE = {name: version(name) for name in ("numpy", "scikit-learn")}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    write_pins(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens
    return tmp_path


def write_pins(project: Path, **changes: str) -> None:
    content = {**{name: f'"{pinned}"' for name, pinned in HERE.items()}, "other": '"1"', **changes}
    (project / "pins.yaml").write_text("".join(f"{name}: {text}\n" for name, text in content.items()))


def refused() -> str:
    with pytest.raises(SystemExit) as end, run_stage("demo"):
        raise AssertionError("not reached")
    assert not Path("out").exists()
    return str(end.value.code)


def test_a_stage_runs_with_its_pins(project: Path) -> None:
    with run_stage("demo") as stage:
        (stage.out / "result").write_text("1")
    assert (project / "out/demo/result").exists()


def test_another_version_is_refused_before_anything_is_made(project: Path) -> None:
    write_pins(project, numpy='"1.0"')
    assert refused() == (
        f"ERROR in stage demo: numpy is {HERE['numpy']} here, and pins.yaml says 1.0, on which this stage's result "
        "depends; `rm -f .venv/.ready && make repro` installs the pins; to "
        'upgrade follow docs/howto.md, "Upgrading a package".'
    )


def test_the_section_that_the_refusal_names_exists() -> None:
    page = Path(__file__).resolve().parents[3] / "docs/howto.md"
    assert "\n## Upgrading a package\n" in page.read_text("utf-8")


def test_an_absent_package_is_refused(project: Path) -> None:
    (project / "dvc.yaml").write_text(DVC_YAML.replace("scikit-learn", "no-such-package"))
    write_pins(project, **{"no-such-package": '"1.0"'})
    assert "no-such-package is not installed, and pins.yaml says 1.0" in refused()


@pytest.mark.parametrize(("line", "shown"), [("2.4", "2.4"), ("", "None")])
def test_a_version_that_is_no_text_is_refused(project: Path, line: str, shown: str) -> None:
    """1.20 would be read as 1.2."""
    write_pins(project, numpy=line)
    assert refused() == (f"ERROR in stage demo: pins.yaml must state the version of numpy in quotes, and has {shown}.")


def test_a_build_for_another_device_is_the_same_version(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "version", lambda package: f"{HERE[package]}+cpu")
    pins.require_pins(stage_entry("demo", None))
    monkeypatch.setattr(pins, "version", lambda package: f"{HERE[package]}.post1+cpu")
    assert "post1+cpu here" in refused()


def test_the_fingerprint_follows_the_pins_that_the_stage_declares(project: Path) -> None:
    def made_from() -> str:
        return fingerprint(stage_entry("demo", None), {})

    entry: dict[str, Any] = stage_entry("demo", None)
    assert declared_params(entry) == {"seed": 1} and declared_pins(entry) == HERE
    first = made_from()
    write_pins(project, other='"2"')
    assert made_from() == first
    write_pins(project, numpy='"1.0"')
    assert made_from() != first
