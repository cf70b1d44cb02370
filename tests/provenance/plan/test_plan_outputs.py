"""What a dependency waits for, and that a look at one does not become dearer with each output of the project."""

import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from epsilon_dpo.provenance.plan.outputs import Outputs, Paths


def stage(name: str, *outs: str) -> Any:
    return SimpleNamespace(addressing=name, outs=[SimpleNamespace(fs_path=path) for path in outs])


def waits_for(outputs: Outputs, path: str) -> Sequence[str]:
    return outputs.expected(SimpleNamespace(fs_path=path)).waits_for  # type: ignore[arg-type]


def test_paths_above_and_below() -> None:
    paths = Paths(["/p/out/kl", "/p/out/kl/a", "/p/out/kl-b", "/p/out/kl.txt", "/p/out/klb/a"])
    paths.add("/p/out/kl/b/c")
    paths.add("/p/out/kl/a")
    assert list(paths.below("/p/out/kl")) == ["/p/out/kl/a", "/p/out/kl/b/c"]
    assert list(paths.at_or_above("/p/out/kl/a/file")) == ["/p/out/kl/a", "/p/out/kl"]
    assert list(paths.at_or_above("/p/out")) == [] == list(paths.below("/p/out/klb/a"))


def test_what_waits_for_a_stage_reads_its_output_or_a_part_or_the_folder_around_it() -> None:
    outputs = Outputs(None)  # type: ignore[arg-type]
    outputs.add(stage("a", "/p/out/a"), None)
    outputs.add(stage("b", "/p/out/b", "/p/out/metrics/b"), None)
    assert waits_for(outputs, "/p/out/a") == waits_for(outputs, "/p/out/a/part/file") == ("a",)
    assert waits_for(outputs, "/p/out/metrics") == ("b",) and waits_for(outputs, "/p/out") == ("a", "b")


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
