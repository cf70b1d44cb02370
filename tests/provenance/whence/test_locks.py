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
