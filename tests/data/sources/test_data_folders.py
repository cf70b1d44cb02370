"""Files, links and folders that are not what they should be, each in one sentence that names it."""

import json
from pathlib import Path
from typing import Any

import pytest
from own_data import Row, pairs_of, read, write

from epsilon_dpo.data.sources.watched import refuse_unwatched_within, sha256
from epsilon_dpo.pipeline.observability.errors import UserError

ROWS: list[Row] = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(8)]


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()


def said(path: str = "data/mine", **changes: Any) -> str:
    with pytest.raises(UserError) as error:
        read(path=path, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_that_may_not_be_read_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("data/a.jsonl", ROWS)
    opened = Path.open

    def refuse(self: Path, *args: Any, **options: Any) -> Any:
        if self.name == "a.jsonl":
            raise PermissionError(13, "Permission denied")
        return opened(self, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert said("data/a.jsonl") == "data/a.jsonl may not be read; change its permissions."
    with pytest.raises(UserError, match=r"data/a\.jsonl may not be read"):
        sha256(path)


@pytest.mark.parametrize("path", ["data/mine", "data/mine/*.jsonl"])
def test_a_folder_that_may_not_be_looked_into_is_one_sentence(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's: whether something lies there is not to be known."""
    write("data/mine/train.jsonl", ROWS)
    asked = Path.stat

    def refuse(self: Path, **options: Any) -> Any:
        if self.parent == Path("data/mine"):
            raise PermissionError(13, "Permission denied", str(self))
        return asked(self, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    assert said(path) == f"{path} may not be read; change its permissions."


def test_a_folder_whose_path_reads_as_a_pattern_is_named(tmp_path: Path) -> None:
    """`datasets` would look for its files in another one."""
    for name in ("mine[1]", "mine1"):
        write(f"data/{name}/train.jsonl", ROWS)
    folder = tmp_path.resolve() / "data/mine[1]"
    assert said("data/mine[1]").startswith(
        f"data/mine[1] cannot be read: its files are looked for by a pattern, and {folder} has a character that"
    )
    assert len(pairs_of(read(path="data/mine[1]/train.jsonl"))) == 8, "a file is looked for by its name"


@pytest.mark.parametrize("where", ["data/mine", "data/mine/train-1.jsonl", "data/mine/*.jsonl"])
def test_a_link_whose_file_is_gone_is_refused(where: str) -> None:
    """Its rows would be missing, and nobody told."""
    write("data/mine/train-0.jsonl", ROWS)
    Path("data/mine/train-1.jsonl").symlink_to("../elsewhere/train-1.jsonl")
    assert said(where).startswith(
        "data/mine/train-1.jsonl is a link to ../elsewhere/train-1.jsonl, which does not exist"
    )


def test_a_glob_passes_over_a_linked_folder() -> None:
    """It takes files alone, so the folder's rows are not missing."""
    write("data/mine/train.jsonl", ROWS)
    Path("elsewhere").mkdir()
    Path("data/mine/link").symlink_to("../../elsewhere")
    assert len(pairs_of(read(path="data/mine/*"))) == 8


def test_an_editors_lock_is_no_missing_file() -> None:
    write("data/mine/train.jsonl", ROWS)
    Path("data/mine/.#train.jsonl").symlink_to("me@host.1234")
    assert len(pairs_of(read())) == len(pairs_of(read(path="data/mine/*.jsonl"))) == 8


@pytest.mark.parametrize(
    ("read_alone", "beside"), [("train_part2.jsonl", "part1.jsonl"), ("train.jsonl.gz", "more.jsonl.gz")]
)
def test_a_file_beside_others_that_is_in_no_split_is_refused(read_alone: str, beside: str) -> None:
    """`datasets` would leave it out, and half of the rows with it."""
    for name in (read_alone, beside):
        write(f"data/mine/{name}", ROWS)
    assert said().startswith(f"data/mine/{beside} would not be read: {read_alone} beside it has the name of a split")
    Path("data/mine/other").mkdir()
    Path("data/mine", beside).rename(Path("data/mine/other", beside))
    assert len(pairs_of(read())) == 8, "another folder may hold something else"
    write("data/mine/README.md", f"---\nconfigs:\n- config_name: default\n  data_files: {read_alone}\n---\n")
    Path("data/mine/other", beside).rename(Path("data/mine", beside))
    assert len(pairs_of(read())) == 8, "its README says which are meant"


@pytest.mark.parametrize(
    ("read_alone", "beside", "name"),
    [
        ("data/train-00000-of-00001.jsonl", "data/test.jsonl", "test-00000-of-00001.jsonl"),
        ("data/train-00000-of-00001.jsonl", "data/my_dev.jsonl", "validation-00000-of-00001.jsonl"),
        ("data/train-00000-of-00001.jsonl", "data/contest.jsonl", "train-00001-of-00002.jsonl"),
        ("train-00000-of-00001.jsonl", "Test.jsonl", "test-Test.jsonl"),
    ],
)
def test_a_file_that_is_left_out_keeps_the_split_of_its_name(read_alone: str, beside: str, name: str) -> None:
    """The rows of a test are not to be trained on; and under the name that is proposed the file is read."""
    for file in (read_alone, beside):
        write(f"data/mine/{file}", ROWS)
    assert f" such as {name}, move" in said() or f"; rename it, say to {name}, move" in said()
    Path("data/mine", beside).rename(Path("data/mine", beside).with_name(name))
    assert pairs_of(read(train_split=name.partition("-")[0]))


@pytest.mark.parametrize("path", ["data/mine/train.jsonl", "data/mine/*.jsonl"])
def test_files_have_no_configuration(path: str) -> None:
    """Whoever names one expects that it is read."""
    write("data/mine/train.jsonl", ROWS)
    assert said(path, name="main").startswith(f"fetch.name = 'main' names a configuration, and {path} is files, which")


def test_a_folder_with_the_name_of_a_file_is_none() -> None:
    write("data/mine/part.parquet/train-0.jsonl", ROWS)
    assert len(pairs_of(read())) == 8


def test_a_file_whose_name_is_no_unicode_is_refused() -> None:
    """Its rows have its name in their ids, and were dropped as if their texts were none."""
    with open(b"data/caf\xe9.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in ROWS)
    assert said("data/*.jsonl") == r"'data/caf\udce9.jsonl' has a name that is not UTF-8; rename the file."


@pytest.mark.parametrize("path", ["data/**x", "data/" + "x" * 300])
def test_a_path_that_can_be_none_is_one_sentence(path: str) -> None:
    assert said(path).startswith(f"params.yaml: fetch.path = '{path}' is no path: ")


def test_a_name_too_long_for_a_disk_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"data/x+ is no path: file name too long; correct it in params\.yaml\."):
        refuse_unwatched_within(Path("data", "x" * 300))


HEAD = "---\n{}\n---\n"


@pytest.mark.parametrize(
    "head",
    [
        "dataset_info:\n  features: 5",
        "configs:\n- config_name: a\n  data_files:\n  - split: train\n    path: [5]",
        "configs:\n- config_name: a\n  data_files:\n  - split: 7\n    path: train.jsonl",
        "configs:\n- config_name: a\n  data_files: nowhere.jsonl",
    ],
)
def test_a_readme_that_cannot_be_followed_is_one_sentence(head: str) -> None:
    write("data/mine/train.jsonl", ROWS)
    write("data/mine/README.md", HEAD.format(head))
    sentence = said()
    assert sentence.startswith("data/mine cannot be read with fetch.name = null: ")
    assert sentence.endswith("; see the head of its README.md.") and len(sentence) < 200


@pytest.mark.parametrize(
    "named", ["http://127.0.0.1:9/x.jsonl", "sftp://host/x.jsonl", "/etc/hosts.jsonl", "hf://datasets/a/b/x.jsonl"]
)
def test_a_readme_that_names_what_lies_elsewhere_is_not_followed(named: str) -> None:
    """`datasets` would ask the address."""
    write("data/mine/train.jsonl", ROWS)
    write("data/mine/README.md", HEAD.format(f"configs:\n- config_name: a\n  data_files: [{named}]"))
    sentence = f"data/mine cannot be read: its README.md (or .huggingface.yaml) names {named}, not in it."
    assert said() == sentence
    Path("data/mine/README.md").rename("data/mine/.huggingface.yaml")
    Path("data/mine/.huggingface.yaml").write_text(f"configs:\n- config_name: a\n  data_files: [{named}]\n")
    assert said() == sentence


def test_a_loading_script_beside_the_data_is_one_sentence() -> None:
    """Old repositories of the Hub have one, named like themselves."""
    write("data/mine/train.jsonl", ROWS)
    write("data/mine/mine.py", b"raise SystemExit")
    write("data/mine/README.md", "Pairs.")
    sentence = said()
    assert "data/mine cannot be read with fetch.name = null: Dataset scripts are no longer supported" in sentence
    assert sentence.endswith("; remove the script, or name the data files with fetch.path.")


def test_addresses_in_a_readme_that_are_no_files_are_no_fault() -> None:
    write("data/mine/train.jsonl", ROWS)
    described = "configs:\n- config_name: a\n  description: Of https://example.org\n  data_files: train.jsonl"
    other = "\n- config_name: b\n  data_files: http://127.0.0.1:9/x.jsonl"
    write("data/mine/README.md", HEAD.format(described + other))
    assert len(pairs_of(read(name="a"))) == 8


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"\xff", b'{"_data_files": null}', b'{"splits": "train"}'])
def test_a_damaged_save_to_disk_is_one_sentence(name: str, content: bytes) -> None:
    write(f"data/mine/{name}", content)
    assert said() == f"data/mine/{name} is not what `save_to_disk` writes; save it again."


@pytest.mark.parametrize(
    ("file", "sentence"),
    [("x.arrow", "data/mine/x.arrow does not exist; download or"), ("x.txt", "data/mine/x.txt has a format that is")],
)
def test_a_file_of_save_to_disk_that_cannot_be_read_is_one_sentence(file: str, sentence: str) -> None:
    write("data/mine/state.json", json.dumps({"_data_files": [{"filename": file}]}))
    Path("data/mine/x.txt").write_text("hello")
    assert said().startswith(sentence)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_text_in_utf16_is_said_to_be_that(name: str) -> None:
    """Without a byte order mark its zero bytes are characters of UTF-8."""
    path = write(f"data/{name}", ROWS)
    path.write_bytes(path.read_text("utf-8").encode("utf-16-le"))
    assert said(f"data/{name}").startswith(f"data/{name} is not UTF-8 text (it has zero bytes, as UTF-16 has); save")
