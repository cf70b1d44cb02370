"""What a dependency waits for, and that a look at one does not become dearer with each output of the project."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from epsilon_dpo.provenance.graph.project import Project
from epsilon_dpo.provenance.plan.outputs import Outputs
from epsilon_dpo.provenance.plan.steps import Planner


def stage(name: str, *outs: str) -> Any:
    return SimpleNamespace(addressing=name, outs=[SimpleNamespace(fs_path=path) for path in outs])


def waits_for(outputs: Outputs, path: str) -> Sequence[str]:
    return outputs.expected(SimpleNamespace(fs_path=path)).waits_for  # type: ignore[arg-type]


def test_what_waits_for_a_stage_reads_its_output_or_a_part_or_the_folder_around_it() -> None:
    outputs = Outputs(None)  # type: ignore[arg-type]
    outputs.add(stage("a", "/p/out/a"), None)
    outputs.add(stage("b", "/p/out/b", "/p/out/metrics/b"), None)
    outputs.add(stage("c", "/p/out/a.txt", "/p/out/a-b", "/p/out/ab/a"), None)
    assert waits_for(outputs, "/p/out/a") == waits_for(outputs, "/p/out/a/part/file") == ("a",)
    assert waits_for(outputs, "/p/out/metrics") == ("b",) and waits_for(outputs, "/p/out") == ("a", "b", "c")


def test_outputs_of_a_run_that_external_no_longer_has_stay_in_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage check removes those of the root's runs alone, so that the scoreboard reads these as they lie there."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("seed: 1\n")
    external = tmp_path / "external"
    lock = {"stages": {"verdicts@gone": {"outs": [{"path": "out/verdicts/gone"}]}}}
    files: Any = {
        str(folder / "dvc.yaml"): SimpleNamespace(path=str(folder / "dvc.yaml"), stages={}, lockfile_contents=lock)
        for folder in (tmp_path, external)
    }
    project = Project(None, tmp_path, [], files)  # type: ignore[arg-type]
    assert list(project.gone()) == ["verdicts@gone", "external/dvc.yaml:verdicts@gone"]
    (external / "out/verdicts/gone").mkdir(parents=True)

    def lies_there(path: Path, content: str) -> Any:
        return SimpleNamespace(fs_path=str(path), exists=True, _get_hash_meta=lambda: (None, content))

    outputs = Planner(project).outputs
    kept = lies_there(external / "out/verdicts/kept", "kept")
    made: Any = SimpleNamespace(addressing="verdicts@kept", outs=[kept])
    outputs.add(made, {kept.fs_path: "kept"})  # type: ignore[dict-item]
    found = outputs.expected(lies_there(external / "out/verdicts", "gone and kept"))
    assert (found.hash_info, found.on_disk) == ("gone and kept", True)


def calls_of(runs: int) -> int:
    """Calls of functions, Python's and C's, for a chain of three stages per run."""
    count = 0

    def counted(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    outputs = Outputs(None)  # type: ignore[arg-type]
    sys.setprofile(counted)
    try:
        for run in range(runs):
            outputs.add(stage("align", f"/p/out/align/{run}", f"/p/out/metrics/{run}"), None)
            for name, read in (("sample", "align"), ("score", "sample")):
                assert waits_for(outputs, f"/p/out/{read}/{run}") == (read,)
                outputs.add(stage(name, f"/p/out/{name}/{run}"), None)
    finally:
        sys.setprofile(None)
    return count


def test_twice_as_many_runs_are_twice_the_work() -> None:
    assert calls_of(100) / calls_of(50) == pytest.approx(2, rel=0.1)
