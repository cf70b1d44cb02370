"""What whence reads of DVC's cache."""

from pathlib import Path

from epsilon_dpo.provenance.whence.content import Cache


def test_a_list_of_files_that_was_cut_off_is_as_good_as_none(tmp_path: Path) -> None:
    listed = tmp_path / ".dvc/cache/files/md5/ab/cd.dir"
    listed.parent.mkdir(parents=True)
    listed.write_text('[{"md5": "12", "relpath": "x"}]')
    assert Cache(tmp_path).members("abcd.dir") == {"x": "12"}
    listed.write_text('[{"md5": "12", "rel')
    assert Cache(tmp_path).members("abcd.dir") is None
