"""What a dvc.lock says of paths, which it has from its own folder."""

from pathlib import PurePosixPath

import pytest

from epsilon_dpo.provenance.whence.locks import Lock

MD5 = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("folder", "path", "from_root"),
    [
        (".", "out/align/dpo", "out/align/dpo"),
        ("external", "out/answers", "external/out/answers"),
        ("external", "../out/align/dpo", "out/align/dpo"),
        ("external", "../../other/out", "../other/out"),
        (".", "../../other/out", "../../other/out"),
        (".", "/data/hh", "/data/hh"),
    ],
)
def test_paths_are_from_the_root_of_the_project(folder: str, path: str, from_root: str) -> None:
    text = f"stages:\n  a:\n    deps:\n    - path: {path}\n      md5: {MD5}\n"
    assert Lock(text, PurePosixPath(folder)).stages["a"].deps == {from_root: MD5}


CUT_OFF = ("a:\n", "a:\n    outs:\n", "a:\n    outs:\n    - md5: 0\n", "a:\n    params:\n      params.yaml:\n", "a")


@pytest.mark.parametrize("left", CUT_OFF)
def test_one_that_is_being_written_has_no_stages(left: str) -> None:
    """DVC writes it in place, and what is there of it may be YAML all the same: it was a traceback."""
    lock = Lock(f"stages:\n  {left}", PurePosixPath())
    assert lock.stages == {} and lock.unreadable


def test_a_run_is_no_parent_of_one_whose_name_begins_as_its_own() -> None:
    text = "stages:\n" + "".join(
        f"  align@{run}:\n    outs:\n    - path: out/align/{run}\n      md5: {MD5}\n"
        f"  kl@{run}:\n    deps:\n    - path: out/align/{run}/model\n      md5: {MD5}\n"
        for run in ("dpo", "dpo_long")
    )
    lock = Lock(text, PurePosixPath())
    assert lock.parents("kl@dpo") == ["align@dpo"]
    assert lock.parents("kl@dpo_long") == ["align@dpo_long"]
