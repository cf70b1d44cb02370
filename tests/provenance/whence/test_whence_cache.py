"""What whence reads of DVC's cache."""

import json
from pathlib import Path

import pytest

from epsilon_dpo.provenance.whence.content import Cache


def test_a_list_of_files_that_was_cut_off_is_as_good_as_none(tmp_path: Path) -> None:
    listed = tmp_path / ".dvc/cache/files/md5/ab/cd.dir"
    listed.parent.mkdir(parents=True)
    listed.write_text('[{"md5": "12", "relpath": "x"}]')
    assert Cache(tmp_path).members("abcd.dir") == {"x": "12"}
    listed.write_text('[{"md5": "12", "rel')
    assert Cache(tmp_path).members("abcd.dir") is None


@pytest.mark.parametrize("name", ["/tmp/x", "../../x", "model/../../x"])
def test_a_list_that_would_have_a_copy_written_elsewhere_is_as_good_as_none(tmp_path: Path, name: str) -> None:
    """Whoever may write to the remote may have written it; `epsilon-dpo champion --out` copies by these names."""
    listed = tmp_path / ".dvc/cache/files/md5/ab/cd.dir"
    listed.parent.mkdir(parents=True)
    listed.write_text(json.dumps([{"md5": "12", "relpath": "config.json"}, {"md5": "34", "relpath": name}]))
    assert Cache(tmp_path).members("abcd.dir") is None
