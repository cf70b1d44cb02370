"""Anthropic-HH: parsing, the split by dialogue, and one sentence for every way in which a file can be wrong."""

import gzip
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.data.sources import hh
from epsilon_dpo.data.sources.hh import parse_transcript, read_hh, split_by_dialogue
from epsilon_dpo.data.sources.params import FetchView, HHSource
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.params import parse

REAL = os.environ.get("EPSILON_DPO_HH_FOLDER")  # a copy of Anthropic/hh-rlhf


def source(local: Path, /, **changes: Any) -> HHSource:
    settings = {
        "source": "hh",
        "repo": None,
        "revision": None,
        "folder": str(local),
        "subsets": ["harmless-base"],
        "train_split": "test",
        "eval_split": "test",
        "eval_share": 0.25,
        "max_train_pairs": None,
        "max_eval_pairs": None,
    }
    return parse(HHSource, {**settings, **changes})


def line(prompt: str, chosen: str = "Yes.", rejected: str = "No.") -> str:
    before = f"\n\nHuman: {prompt}\n\nAssistant: "
    return json.dumps({"chosen": before + chosen, "rejected": before + rejected})


def zipped(content: bytes) -> bytes:
    """Without the time, which would give the tests below another name in every process."""
    return gzip.compress(content, mtime=0)


def write(folder: Path, lines: list[str], name: str = "harmless-base/test.jsonl.gz") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zipped("".join(text + "\n" for text in lines).encode()))
    return path


def test_turns_become_messages_and_headers_go() -> None:
    text = "\n\nHuman: Hi!\n\nHow are you?\n\nAssistant: Fine:\n\n- a\n- b \n\nHuman:Good\n\nAssistant:"
    assert parse_transcript(text) == [
        {"role": "user", "content": "Hi!\n\nHow are you?"},
        {"role": "assistant", "content": "Fine:\n\n- a\n- b"},
        {"role": "user", "content": "Good"},
        {"role": "assistant", "content": ""},  # kept: stage validate reports it
    ]


def test_defects_are_kept_and_ids_name_the_line(tmp_path: Path) -> None:
    twice = "\n\nHuman: a\n\nHuman: b\n\nAssistant: c"
    lines = [line("p1"), line("p2", chosen=""), json.dumps({"chosen": twice, "rejected": twice})]
    write(tmp_path, lines)
    dataset = read_hh(source(tmp_path), 1)
    rows = sorted(dataset.train + dataset.eval, key=lambda row: row["id"])
    assert [row["id"] for row in rows] == [f"harmless-base/test/{index}" for index in range(3)]
    assert rows[1]["chosen"][-1] == {"role": "assistant", "content": ""}
    assert [message["role"] for message in rows[2]["chosen"]] == ["user", "user", "assistant"]


def test_unicode_line_separators_do_not_end_a_line(tmp_path: Path) -> None:
    raw = line("p0").replace("p0", "one\u2028two\x85three")
    write(tmp_path, [json.dumps(json.loads(raw), ensure_ascii=False), line("p1")])
    dataset = read_hh(source(tmp_path, eval_share=0.5), 1)
    assert len(dataset.train) + len(dataset.eval) == 2


def test_one_file_is_split_by_dialogue_whatever_its_order(tmp_path: Path) -> None:
    lines = [line(f"p{index % 20}", chosen=f"answer {index}") for index in range(60)]
    write(tmp_path, lines)
    first = read_hh(source(tmp_path), 1)
    prompts = [{row["chosen"][0]["content"] for row in part} for part in (first.train, first.eval)]
    assert not prompts[0] & prompts[1]
    assert (len(prompts[0]), len(prompts[1])) == (15, 5)
    again = split_by_dialogue(list(reversed(first.train + first.eval)), 0.25, 1)
    assert {row["id"] for row in again[1]} == {row["id"] for row in first.eval}
    other = split_by_dialogue(first.train + first.eval, 0.25, 2)
    assert {row["id"] for row in other[1]} != {row["id"] for row in first.eval}


def test_prompts_that_differ_in_the_space_around_them_are_not_parted() -> None:
    rows = [
        {"id": str(number), "chosen": [{"role": "user", "content": f"p{number // 2}{' ' * (number % 2)}"}, {}]}
        for number in range(80)
    ]
    for part in split_by_dialogue(rows, 0.25, 1):
        assert len(part) in (20, 60) and len({row["chosen"][0]["content"].strip() for row in part}) == len(part) // 2


def test_a_dialogue_that_is_stored_at_several_turns_stays_on_one_side(tmp_path: Path) -> None:
    """Else answers to an evaluation prompt stand in a training dialogue; rows of one turn are parted as by prompt."""
    openings = [line(f"p{n}") for n in range(40)]
    later = [line(f"p{n}\n\nAssistant: {n}\n\nHuman: more {turn}") for n in range(30) for turn in range(3)]
    write(tmp_path, openings)
    alone = read_hh(source(tmp_path), 1)
    by_prompt = [2, 4, 9, 10, 12, 15, 19, 27, 37, 38]
    assert [int(row["id"].rsplit("/")[-1]) for row in alone.eval] == by_prompt
    write(tmp_path, openings + later)
    both = read_hh(source(tmp_path), 1)
    first = [{row["chosen"][0]["content"] for row in part} for part in (both.train, both.eval)]
    assert not first[0] & first[1] and len(both.train) + len(both.eval) == 130
    assert [row for row in both.eval if len(row["chosen"]) == 2] == alone.eval
    assert {len(row["chosen"]) for row in both.eval} == {2, 4}


def test_two_files_are_taken_as_they_are_and_limits_draw_from_all_subsets(tmp_path: Path) -> None:
    for subset in ("harmless-base", "helpful-base"):
        write(tmp_path, [line(f"{subset} {index}") for index in range(50)], f"{subset}/train.jsonl.gz")
        write(tmp_path, [line(f"{subset} held {index}") for index in range(5)], f"{subset}/test.jsonl.gz")
    settings = {"subsets": ["harmless-base", "helpful-base"], "train_split": "train", "eval_share": None}
    limits = {"max_train_pairs": 20, "max_eval_pairs": 4}
    dataset = read_hh(source(tmp_path, **settings, **limits), 1)
    assert (len(dataset.train), len(dataset.eval)) == (20, 4)
    assert {row["id"].split("/")[0] for row in dataset.train} == {"harmless-base", "helpful-base"}
    again = read_hh(source(tmp_path, **settings, **limits), 1)
    assert (again.train, again.eval) == (dataset.train, dataset.eval)
    other = read_hh(source(tmp_path, **settings, **limits), 2)
    assert other.train != dataset.train and other.eval != dataset.eval, "drawn with the seed"
    assert sorted(dataset.facts["files"]) == [
        f"{subset}/{split}.jsonl.gz" for subset in ("harmless-base", "helpful-base") for split in ("test", "train")
    ]


GOOD = line("p")
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (zipped(("x" * 9 + GOOD * 50).encode())[:-20], "is cut off or damaged"),
        (zipped(GOOD.encode())[:-8] + b"\0" * 8, "is cut off or damaged"),  # checksum
        (GOOD.encode(), "is not a gzip file"),
        (LFS_POINTER, "is a Git LFS pointer and not the data: run `git lfs pull`"),
        (zipped(LFS_POINTER), "is a Git LFS pointer and not the data: run `git lfs pull`"),
        (b"<!DOCTYPE html><html>", "is a web page (HTML)"),
        (b"", "is empty"),
        (zipped(b""), "is empty"),
        (zipped(b"\xff\xfe"), "is not UTF-8"),
        (zipped(f"{GOOD}\n{GOOD[:-9]}\n".encode()), "test.jsonl.gz, line 2 is not JSON"),
        (zipped(f"{GOOD}\n\n".encode()), "line 2 is not JSON"),
        (zipped(f"{GOOD}\n{'[' * 100_000}".encode()), "line 2 has a number of thousands of digits, or lists within"),
        (zipped(f'{GOOD}\n{{"chosen": {"1" * 10_000}}}'.encode()), "line 2 has a number of thousands of digits, or"),
        (zipped(GOOD.replace('"}', '\\ud800"}').encode()), "line 1: 'rejected' holds half a character"),
        (zipped(b'["chosen"]\n'), "line 1 has no text under 'chosen'"),
        (zipped(b'{"chosen": "\\n\\nHuman: a"}\n'), "line 1 has no text under 'rejected'"),
        (zipped(b'{"chosen": true, "rejected": "x"}\n'), "line 1 has no text under 'chosen'"),
        (zipped(b'{"chosen": "Human: a", "rejected": "x"}\n'), "line 1: 'chosen' does not begin with"),
        (zipped(b'{"chosen": "", "rejected": "x"}\n'), "line 1: 'chosen' does not begin with"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    write(tmp_path, []).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_hh(source(tmp_path), 1)
    assert sentence in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    content = "".join(f"{line(f'p{n}')}\n" for n in range(4)).encode()
    write(tmp_path, []).write_bytes(zipped(b"\xef\xbb\xbf" + content))
    dataset = read_hh(source(tmp_path, eval_share=0.5), 1)
    assert sorted(row["chosen"][0]["content"] for row in [*dataset.train, *dataset.eval]) == ["p0", "p1", "p2", "p3"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"folder": "no/such/folder"},
            "The data folder no/such/folder does not exist; set fetch.folder in params.yaml",
        ),
        ({"subsets": ["harmles-base"]}, "has no subset 'harmles-base' (fetch.subsets); it has harmless-base."),
        ({"train_split": "train"}, "the splits there are test."),
    ],
)
def test_a_missing_file_says_what_is_there(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    write(tmp_path, [GOOD])
    with pytest.raises(UserError) as error:
        read_hh(source(tmp_path, **changes), 1)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"folder": None}, "set folder to a local copy, or repo and revision"),
        ({"repo": "Anthropic/hh-rlhf", "revision": "0" * 40}, "set them to null"),
        ({"eval_share": None}, "eval_share must say how much"),
        ({"subsets": ["a", "a"]}, "names one folder twice"),
        # Beyond data/ DVC would not see a change.
        ({"subsets": ["../elsewhere"]}, "subsets names '../elsewhere', which is no name within the folder"),
        ({"subsets": ["/data/hh"]}, "subsets names '/data/hh', which is no name within the folder"),
        ({"subsets": [""]}, "subsets names '', which is no name within the folder"),
        (
            {"train_split": "../../elsewhere/train"},
            "train_split names '../../elsewhere/train', which is no name within",
        ),
        ({"eval_split": "a/b"}, "eval_split names 'a/b', which is no name within the folder"),
        ({"folder": None, "repo": "Anthropic/hh-rlhf", "revision": "main"}, "revision = 'main' is refused"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        source(tmp_path, **changes)
    assert sentence in str(error.value)


def test_a_folder_that_dvc_does_not_watch_is_refused() -> None:
    """Else a changed file there would be served as it was before, from DVC's cache."""

    def view(**changes: Any) -> FetchView:
        return parse(FetchView, {"seed": 17, "fetch": source(Path("data/hh"), **changes).model_dump()})

    assert view() and view(folder=None, repo="Anthropic/hh-rlhf", revision="0" * 40)
    with pytest.raises(UserError, match=r"fetch\.folder = elsewhere/hh is not below data/"):
        view(folder="elsewhere/hh")


def test_a_part_left_empty_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [GOOD])
    with pytest.raises(UserError, match="No evaluation pair is left"):
        read_hh(source(tmp_path), 1)


@pytest.mark.skipif(not REAL, reason="set EPSILON_DPO_HH_FOLDER to a folder with harmless-base/test.jsonl.gz")
def test_the_real_file() -> None:
    """harmless-base/test: its known size and defects, all still there for stage validate."""
    dataset = read_hh(source(Path(str(REAL))), 17)
    rows = dataset.train + dataset.eval
    roles = [[message["role"] for message in row["chosen"]] for row in rows]
    single = [row for row, turns in zip(rows, roles, strict=True) if turns == ["user", "assistant"]]
    assert (len(rows), len(single)) == (2312, 662)
    assert sum(not row["chosen"][-1]["content"] for row in single) == 3
    assert sum(any(a == b for a, b in pairwise(turns)) for turns in roles) == 8
    assert len({json.dumps(row["chosen"][:-1]) for row in rows}) == 2310
    assert dataset.facts["files"] == {
        "harmless-base/test.jsonl.gz": "ebfaaed21162a4de120ae85366075b34425e2a6303fac59b99555002f7016f03"
    }


def test_a_file_that_no_disk_could_hold_is_not_decompressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hh, "LARGEST", 1 << 20)
    write(tmp_path, []).write_bytes(zipped(b" " * (2 << 20)))
    with pytest.raises(UserError, match=r"test\.jsonl\.gz holds more than 1 MB when it is decompressed"):
        read_hh(source(tmp_path), 1)
