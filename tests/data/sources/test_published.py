"""`fetch.source: dataset`: files and folders as people have them, and one sentence for each way they can be wrong."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import pytest
from own_data import BLOCK, Row, pairs_of, read, write

from epsilon_dpo.data.sources import formats
from epsilon_dpo.data.sources.dataset import RowsOnDisk
from epsilon_dpo.data.sources.params import FetchView
from epsilon_dpo.data.sources.published import is_held_out
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.params import parse


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()


def rows(count: int, start: int = 0) -> list[Row]:
    return [
        {"prompt": f"question {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(start, start + count)
    ]


def prompts(part: Any) -> list[str]:
    return [row["chosen"][-2]["content"] for row in part]


def test_a_row_becomes_dialogues_and_its_id_names_file_and_row() -> None:
    write("data/mine/train.jsonl", rows(30))
    dataset = read(path="data/mine/train.jsonl", eval_share=0.2)
    found = {row["id"]: row for row in [*dataset.train, *dataset.eval]}
    assert set(found) == {f"train/{number}" for number in range(1, 31)}
    assert found["train/3"] == {
        "id": "train/3",
        "chosen": [{"role": "user", "content": "question 2"}, {"role": "assistant", "content": "good 2"}],
        "rejected": [{"role": "user", "content": "question 2"}, {"role": "assistant", "content": "bad 2"}],
    }
    assert dataset.facts["rows_read"] == 30
    assert dataset.facts["shape"] == "explicit_text" and list(dataset.facts["files"]) == ["train.jsonl"]
    assert dataset.dropped is not None and len(dataset.dropped) == 0


def test_a_share_is_set_aside_by_prompt_whatever_the_order() -> None:
    several = [*rows(200), *rows(200)]
    write("data/a.jsonl", several)
    write("data/b.jsonl", several[::-1])
    first, turned = (read(path=f"data/{name}.jsonl", eval_share=0.25) for name in "ab")
    assert set(prompts(first.eval)) == set(prompts(turned.eval))
    assert not set(prompts(first.eval)) & set(prompts(first.train))
    assert 60 < len(first.eval) < 140 and len(first.eval) % 2 == 0
    assert set(prompts(read(seed=2, path="data/a.jsonl", eval_share=0.25).eval)) != set(prompts(first.eval))
    held_out = sum(is_held_out([{"role": "user", "content": str(n)}], 0.1, 7) for n in range(20000))
    assert 1850 < held_out < 2150


def test_prompts_that_differ_in_the_space_around_them_are_not_parted() -> None:
    """Many chat templates trim it, so that training would be on an evaluation prompt."""
    twins = [{**row, "prompt": f" {row['prompt']}\n"} for row in rows(200)]
    write("data/a.jsonl", [*rows(200), *twins])
    dataset = read(path="data/a.jsonl", eval_share=0.25)
    assert len(dataset.train) + len(dataset.eval) == 400
    assert not {text.strip() for text in prompts(dataset.eval)} & {text.strip() for text in prompts(dataset.train)}
    write("data/b.jsonl", rows(200))
    assert prompts(read(path="data/b.jsonl", eval_share=0.25).eval) == prompts(dataset.eval)[: len(dataset.eval) // 2]


def test_all_turns_of_a_dialogue_go_where_its_first_user_turn_alone_would() -> None:
    """Which is where they went before, if there is no other; a system turn does not part them."""
    for n in range(200):
        first = {"role": "user", "content": f"p{n}"}
        before = hashlib.sha256(f'7/[{{"role": "user", "content": "p{n}"}}]'.encode()).digest()
        held_out = int.from_bytes(before[:8]) < 0.3 * 2.0**64
        later = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
        system = {"role": "system", "content": "c"}
        for prompt in ([first], [first, *later], [system, first], [system, {**first, "content": f" p{n}\n"}, *later]):
            assert is_held_out(prompt, 0.3, 7) == held_out


def test_a_sample_is_drawn_with_the_seed_in_file_order() -> None:
    write("data/a.jsonl", rows(300))
    few = {"path": "data/a.jsonl", "max_train_pairs": 20, "max_eval_pairs": 5}
    dataset = read(**few)
    assert (len(dataset.train), len(dataset.eval), len(list(dataset.train)), len(list(dataset.eval))) == (20, 5, 20, 5)
    numbers = [int(row["id"].split("/")[1]) for row in dataset.train]
    assert numbers == sorted(numbers) and max(numbers) > 100
    assert [*dataset.train] == [*dataset.train] == [*read(**few).train] != [*read(seed=3, **few).train]
    write("data/b/train.jsonl", rows(100))
    write("data/b/test.jsonl", rows(100, 100))
    few |= {"path": "data/b", "eval_split": "test", "eval_share": None}
    first, other = (read(seed=seed, **few) for seed in (1, 3))
    assert [*first.train] != [*other.train] and [*first.eval] != [*other.eval], "also where no prompt moves"


def test_a_sample_takes_every_row_alike(tmp_path: Path) -> None:
    write("all.jsonl", [{"n": n} for n in range(10)])
    drawn = [row["n"] for seed in range(1000) for row in RowsOnDisk(tmp_path / "all.jsonl", 10, 3, str(seed))]
    assert len(drawn) == 3000 and all(240 < drawn.count(n) < 360 for n in range(10))


def test_shards_splits_and_slices_are_those_of_datasets() -> None:
    for shard in range(3):
        write(f"data/mine/train-0000{shard}-of-00003.parquet", rows(10, 10 * shard))
    write("data/mine/test-00000-of-00001.parquet", rows(10, 100))
    dataset = read(train_split="train[:50%]+test[2:4]", eval_split="train[-5:]", eval_share=None)
    assert prompts(dataset.train) == [f"question {n}" for n in [*range(15), 102, 103]]
    assert prompts(dataset.eval) == [f"question {n}" for n in range(25, 30)]
    assert next(iter(dataset.eval))["id"] == "train-00002-of-00003/6"
    ours = read(train_split="train[10%:33%]", eval_split="test", eval_share=None)
    theirs = datasets.load_dataset("data/mine", split="train[10%:33%]", cache_dir="cache")
    assert prompts(ours.train) == theirs["prompt"]


def test_a_readme_names_configurations() -> None:
    write("data/mine/one/a.jsonl", rows(4))
    write("data/mine/two/a.csv", rows(4, 50))
    write(
        "data/mine/README.md",
        "---\nconfigs:\n- config_name: first\n  data_files: one/*.jsonl\n"
        "- config_name: second\n  data_files: two/*.csv\n---\n",
    )
    assert prompts(pairs_of(read(name="second"))) == [f"question {n}" for n in range(50, 54)]
    for name in ("third", None):
        with pytest.raises(UserError, match=r"data/mine cannot be read with fetch.name = (third|null): .*first"):
            read(name=name)


def test_other_files_beside_the_data_are_no_other_format() -> None:
    """Nor are those that the README, or .huggingface.yaml, leaves out; without it they may be meant."""
    write("data/mine/data/train-00000-of-00001.parquet", rows(4))
    write("data/mine/dataset_infos.json", json.dumps({"default": {"splits": {}}}))
    assert len(pairs_of(read())) == 4
    write("data/mine/eval/results.json", "{}")
    with pytest.raises(UserError, match=r"such as data/mine/data/\*\.parquet\.$"):
        read()
    for named in ("data_files: data/train-*", "data_dir: data"):
        write("data/mine/README.md", f"---\nconfigs:\n- config_name: default\n  {named}\n---\n")
        assert len(pairs_of(read())) == 4
    write("data/mine/README.md", "---\nconfigs:\n- config_name: default\n  data_files: [data/*, eval/*]\n---\n")
    with pytest.raises(UserError, match="several formats"):
        read()
    Path("data/mine/README.md").unlink()
    write("data/mine/.huggingface.yaml", "configs:\n- config_name: default\n  data_files: data/train-*\n")
    assert len(pairs_of(read())) == 4


def test_save_to_disk_and_a_glob(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(rows(6))
    datasets.DatasetDict({"train": table, "test_prefs": table}).save_to_disk("data/saved")
    table.save_to_disk("data/alone")
    saved = read(path="data/saved", eval_split="test_prefs", eval_share=None)
    assert prompts(saved.train) == prompts(saved.eval) == [f"question {n}" for n in range(6)]
    assert len(pairs_of(read(path="data/alone"))) == 6
    write("data/g/a.jsonl", rows(2))
    write("data/g/a.json", rows(2, 2))
    ids = {row["id"] for part in (lambda d: (d.train, d.eval))(read(path="data/g/a.js*")) for row in part}
    assert len(ids) == 4


def test_a_byte_order_mark_crlf_and_blank_lines_are_no_data() -> None:
    content = "".join(json.dumps(row) + "\r\n" for row in rows(4)) + "\r\n"
    write("data/a.jsonl", b"\xef\xbb\xbf" + content.encode())
    write("data/b.csv", b"\xef\xbb\xbfprompt,chosen,rejected\r\nquestion 0,good 0,bad 0\r\nquestion 1,good 1,bad 1\r\n")
    assert pairs_of(read(path="data/a.jsonl"))[:2] == pairs_of(read(path="data/b.csv", eval_share=0.6))


def test_what_makes_no_pair_is_listed_with_its_reason() -> None:
    bad = [
        {"prompt": "a", "chosen": None, "rejected": "c"},
        {"prompt": "a", "chosen": 42, "rejected": "c"},
        {"prompt": "a", "chosen": "half \ud83d", "rejected": "c"},
    ]
    scored = [{**row, "margin": n / 4} for n, row in enumerate(rows(5))]
    scored.append({**rows(1, 5)[0], "margin": -3.0})  # its scores contradict its label
    write("data/a.jsonl", [*rows(10), *bad])
    dataset = read(path="data/a.jsonl")
    assert dataset.facts["dropped"] == {"not_text": 1, "not_unicode": 1, "null": 1}
    assert [(row["id"], row["split"], row["reason"]) for row in dataset.dropped or []] == [
        ("a/11", "train", "null"),
        ("a/12", "train", "not_text"),
        ("a/13", "train", "not_unicode"),
    ]
    assert {row["detail"] for row in dataset.dropped or []} >= {"chosen is null", "chosen is number 42"}
    write("data/b.jsonl", scored)
    close = read(path="data/b.jsonl", eval_share=0.6, min_margin=0.5)
    assert close.facts["dropped"] == {"below_min_margin": 2, "tied": 1}
    assert sorted(row["margin"] for row in [*close.train, *close.eval]) == [0.5, 0.75, 1.0]
    with pytest.raises(UserError, match=r"a.jsonl, row 1 has no scores, but fetch.min_margin = 0.5"):
        read(path="data/a.jsonl", min_margin=0.5)


def test_unpaired_answers_are_paired_by_prompt_across_files() -> None:
    halves = [("a", "g1", True), ("b", "g2", True), ("a", "b1", False), ("a", "b2", False), ("c", "b3", False)]
    keys = ("prompt", "completion", "label")
    for number, part in enumerate((halves[:2], halves[2:])):
        write(f"data/u/train-{number}.jsonl", [dict(zip(keys, half, strict=True)) for half in part])
        write(f"data/u/test-{number}.jsonl", [dict(zip(keys, half, strict=True)) for half in part])
    dataset = read(path="data/u", eval_split="test", eval_share=None)
    assert [(row["id"], row["chosen"][-1]["content"], row["rejected"][-1]["content"]) for row in dataset.train] == [
        ("train-0/1+train-1/1", "g1", "b1")
    ]
    left = [row["id"] for row in dataset.dropped or [] if row["split"] == "train"]
    assert left == ["train-1/2", "train-0/2", "train-1/3"] and dataset.facts["dropped"] == {"unpaired": 6}


def test_white_space_around_a_prompt_parts_no_good_answer_from_the_bad_one() -> None:
    halves = [("q ?", "g", True), (" q ?\n", "b", False), ("q  ?", "b", False)]
    for split in ("train", "test"):
        rows = [dict(zip(("prompt", "completion", "label"), half, strict=True)) for half in halves]
        write(f"data/u/{split}.jsonl", rows)
    dataset = read(path="data/u", eval_split="test", eval_share=None)
    (pair,) = dataset.train
    assert pair["id"] == "train/1+train/2" and dataset.facts["dropped"] == {"unpaired": 2}
    assert [pair[side][0]["content"] for side in ("chosen", "rejected")] == ["q ?", "q ?"]


def test_labels_of_which_no_prompt_has_both_make_no_pair_and_kto_is_named() -> None:
    """As thumbs up and down are collected: one answer to each prompt."""
    halves = [{"prompt": f"q {n}", "completion": f"a {n}", "label": n % 2 == 0} for n in range(20)]
    write("data/a.jsonl", halves)
    with pytest.raises(UserError) as stop:
        read(path="data/a.jsonl")
    assert str(stop.value) == (
        "data/a.jsonl gives no training pair (dropped: 20 unpaired); an answer with a label is used only with one of "
        "the other label to the same prompt, by method kto, too: give a good and a bad answer to each prompt."
    )


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\n"
GOOD = json.dumps(rows(1)[0])
BAD: list[tuple[str, str, bytes | str | list[Row], str]] = [
    ("empty", "a.jsonl", "", "a.jsonl is empty; download or write it again"),
    ("blank", "a.jsonl", "\n\n", "a.jsonl holds no row"),
    ("empty array", "a.json", "[]", "a.json holds no row"),
    ("no rows", "a.csv", "prompt,chosen,rejected\n", "a.csv holds a header and no row"),
    ("lfs", "a.parquet", LFS, "a.parquet is a Git LFS pointer and not the data: run `git lfs pull`"),
    ("zipped lfs", "a.jsonl.gz", LFS, "a.jsonl.gz is a Git LFS pointer"),
    ("html", "a.jsonl", "\n<!DOCTYPE html>\n<html></html>", "a.jsonl is a web page (HTML) and not the data"),
    ("cut gzip", "a.jsonl.gz", b"", "a.jsonl.gz is cut off or damaged"),
    ("no gzip", "b.jsonl.gz", b"", "b.jsonl.gz is not a gzip file"),
    ("hidden gzip", "c.jsonl", gzip.compress(GOOD.encode()), "rename it to c.jsonl.gz"),
    ("no zstd", "a.jsonl.zst", "{}", "a.jsonl.zst is not a zstd file"),
    ("utf-16", "a.csv", "prompt,chosen,rejected\n".encode("utf-16"), "a.csv is not UTF-8 text"),
    ("bad line", "a.jsonl", f"{GOOD}\n{GOOD[:-4]}\n", "a.jsonl, row 2 is not JSON (Unterminated string"),
    ("bad array", "a.json", f"[{GOOD},{GOOD[:-4]}", "a.json, row 2 is not JSON (Unterminated"),
    ("two arrays", "a.json", f"[{GOOD}][]", "a.json goes on after the end of its array"),
    ("pretty object", "a.json", '{\n "data": []\n}', "a.json is one JSON object over several lines"),
    ("no object", "a.jsonl", '"text"\n', "a.jsonl, row 1 is str 'text', expected an object"),
    ("lists", "a.json", '[["a", "b"]]', "a.json, row 1 is list"),
    ("no parquet", "a.parquet", "PAR2", "a.parquet is no parquet file, or it is cut off or damaged"),
    ("no arrow", "a.arrow", "ARROW", "a.arrow is no arrow file, or it is cut off or damaged"),
    ("cells", "a.csv", "prompt,chosen,rejected\na,b\n", "a.csv, row 1 has 2 cells, but the header names 3 columns"),
    ("quotes", "a.csv", 'prompt,chosen,rejected\na,"b"c,d\n', "a.csv, row 1 cannot be read"),
    ("header", "a.csv", "prompt,chosen,chosen\na,b,c\n", "a.csv has two columns 'chosen'"),
    ("semicolons", "a.csv", "prompt;chosen;rejected\na;b;c\n", "a.csv has one column, 'prompt;chosen;rejected', whose"),
    ("commas in tsv", "a.tsv", "prompt,chosen,rejected\na,b,c\n", "whose name holds ',': the columns of .csv are sep"),
    ("format", "a.txt", "hello", "a.txt has a format that is not read here; json, jsonl, csv, tsv"),
    ("null only", "a.jsonl", [{"prompt": "a", "chosen": None, "rejected": None}], "chosen (null), rejected (null)"),
    ("all tied", "a.jsonl", [{**row, "margin": 0} for row in rows(3)], "gives no training pair (dropped: 3 tied)"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_file_is_one_sentence(name: str, content: bytes | str | list[Row], sentence: str) -> None:
    write(f"data/{name}", content)
    if name == "a.jsonl.gz" and not content:
        whole = write(f"data/{name}", rows(50)).read_bytes()
        Path(f"data/{name}").write_bytes(whole[:-20])
    if name == "b.jsonl.gz":
        Path(f"data/{name}").write_text(GOOD)
    with pytest.raises(UserError) as error:
        read(path=f"data/{name}")
    assert f"data/{sentence}" in str(error.value) or (sentence[1] != "." and sentence in str(error.value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("between", ["", "\n"], ids=["one line", "many lines"])
def test_a_cell_without_end_is_not_read_to_its_end(
    between: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quote that is never closed, in 0.3 MB of gzip."""
    monkeypatch.setattr(formats, "ROW_LIMIT", 1 << 20)
    path = tmp_path / "x.csv.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write('prompt,chosen\na,b\na,"')
        file.writelines(("b" * 1023 + between) for _ in range(100 << 10))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"x\.csv\.gz, (line 3 is longer than|row 2 cannot be read \(field larger)"):
            list(formats.rows_of(formats.DataFile(path, path.name, path.name)))
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("before", "after"), [("", "\n"), ("[", "]")])
def test_a_row_without_end_is_not_read_to_its_end(
    before: str, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 MB of gzip may hold 1 GB."""
    monkeypatch.setattr(formats, "ROW_LIMIT", 1 << 20)
    between = "," if before else "\n"
    row = json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"})
    long = json.dumps({"prompt": "a", "chosen": "b" * (200 << 20), "rejected": "c"})
    path = tmp_path / ("x.json.gz" if before else "x.jsonl.gz")
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(f"{before}{row}{between}{row}{between}{long}{after}")
    read_so_far: list[int] = []
    with pytest.raises(UserError, match=rf"{path.name}, row 3 is longer than 1 million characters"):
        tracemalloc.start()
        try:
            for number, _ in formats.rows_of(formats.DataFile(path, path.name, path.name)):
                read_so_far.append(number)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert peak < 40 << 20
    assert set(read_so_far) <= {1, 2}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"path": "data/mne"}, "data/mne does not exist (fetch.path); data/ holds a.jsonl, mine/, mixed/, none/."),
        ({"path": "data/m*.jsonl"}, "data/m*.jsonl does not exist (fetch.path)"),
        ({"train_split": "tran"}, "data/mine has no split 'tran' (fetch.train_split); its splits are test, train."),
        ({"eval_split": "val", "eval_share": None}, "has no split 'val' (fetch.eval_split)"),
        ({"train_split": "train[:x%]"}, "fetch.train_split = 'train[:x%]' is no split"),
        ({"path": "data/none"}, "data/none holds no data file; json, jsonl"),
        ({"path": "data/mixed"}, "data/mixed holds files of several formats (csv, json); move the others away"),
        (
            {"columns": {"prompt": "frage"}},
            "train.jsonl has no column 'frage' (fetch.columns); it has prompt (text)",
        ),
        ({"name": "sft"}, "data/mine cannot be read with fetch.name = sft"),
        ({"path": "/etc/passwd"}, "fetch.path = /etc/passwd is not below data/"),
        ({"path": "data/../x"}, "is not below data/"),
        ({"path": "org/name"}, "of a dataset on the Hub set its revision, a commit"),
        ({"columns": {}}, "fetch.columns is refused"),
        ({"columns": {"chosen": "a", "rejected": "a"}}, "columns maps to the column 'a' twice; a column is one thing"),
        ({"columns": {"promt": "a"}}, "columns maps to 'promt', which no shape reads"),
        ({"eval_split": "test"}, "set either eval_split or eval_share"),
        ({"eval_split": "train", "eval_share": None}, "are the same rows"),
        ({"revision": "main", "path": "org/name"}, "fetch.revision = 'main' is refused"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_one_sentence(changes: Row, sentence: str) -> None:
    write("data/a.jsonl", rows(3))
    for split in ("train", "test"):
        write(f"data/mine/{split}.jsonl", rows(3))
    write("data/mixed/a.jsonl", rows(3))
    write("data/mixed/b.csv", rows(3))
    write("data/none/notes.txt", "x")
    with pytest.raises(UserError) as error:
        read(**changes)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_shards_of_two_shapes_are_refused() -> None:
    write("data/mine/train-0.jsonl", rows(3))
    write("data/mine/train-1.jsonl", [{"prompt": "a", "chosen": "b", "reject": "c"}])
    with pytest.raises(UserError, match=r"data/mine/train-1.jsonl has no shape .* reject \(text\)"):
        read()
    write("data/mine/train-1.jsonl", [{"system": "s", **row} for row in rows(3)])
    with pytest.raises(UserError, match=r"train-1.jsonl reads as system_beside, but data/mine/train-0.jsonl as "):
        read()


def test_the_data_sets_own_ids_may_repeat() -> None:
    write("data/a.jsonl", [{"id": "7", **row} for row in rows(6)])
    assert len({row["id"] for row in pairs_with_ids()}) == 6


def pairs_with_ids() -> list[Row]:
    dataset = read(path="data/a.jsonl")
    return [*dataset.train, *dataset.eval]


@pytest.mark.parametrize("place", ["folder", "inner", "above"])
def test_a_linked_folder_is_refused_and_a_linked_file_is_read(tmp_path: Path, place: str) -> None:
    write("elsewhere/x/train.jsonl", rows(6))
    Path("data/files/x").mkdir(parents=True)
    Path("data/files/x/train.jsonl").symlink_to(tmp_path / "elsewhere/x/train.jsonl")
    assert len(pairs_of(read(path="data/files"))) == 6
    if place == "inner":
        Path("data/mine").mkdir()
        Path("data/mine/x").symlink_to(tmp_path / "elsewhere/x")
    else:
        Path("data/mine").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"data/mine(/x)? is a link to a folder, into which DVC does not look"):
        read(path="data/mine/x/train.jsonl" if place == "above" else "data/mine")


def test_a_file_that_dvc_ignores_is_refused() -> None:
    write("data/.a.jsonl", rows(3))
    with pytest.raises(UserError, match=r"data/.a.jsonl has a name that DVC ignores"):
        read(path="data/.a.jsonl")


def test_variables_of_datasets_change_nothing_and_nothing_is_written_elsewhere(tmp_path: Path) -> None:
    """In a process of its own, since `datasets` reads them when it is imported."""
    for split in ("train", "test"):
        write(f"data/mine/{split}.parquet", rows(5))
    here = read(train_split="train[:4]")
    view = parse(FetchView, {"seed": 1, "fetch": {**BLOCK, "train_split": "train[:4]"}})
    script = (
        "import sys; from pathlib import Path; from epsilon_dpo.data.sources.loading import read_source; "
        "from epsilon_dpo.data.sources.params import DatasetSource; "
        "source = DatasetSource.model_validate_json(sys.argv[1]); "
        "dataset = read_source(source, 1, Path('scratch')); print([*dataset.train], dataset.facts)"
    )
    home = tmp_path / "home"
    env = {**os.environ, "HOME": str(home), "HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home / "x")}
    env |= {"HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(home / "c"), "HF_DATASETS_IN_MEMORY_MAX_SIZE": "1"}
    command = [sys.executable, "-c", script, view.fetch.model_dump_json()]
    printed = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert printed == f"{[*here.train]} {here.facts}\n" and "question" in printed
    assert not [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", f'{GOOD}\n{GOOD[:-1]}, "chosen": "x"}}\n', "a.jsonl, row 2 has 'chosen' twice; name it once."),
        ("a.json", f'[{GOOD}, {GOOD[:-1]}, "chosen": "x"}}]', "a.json, row 2 has 'chosen' twice; name it once."),
        (
            "a.json",
            f"[{GOOD} {GOOD}]",
            "a.json, row 1 is not followed by a comma or the array's end; correct it there.",
        ),
        ("a.json", f"[,{GOOD}]", "a.json, row 1 is not JSON (Expecting value); correct it, or"),
        ("a.json", f"[{GOOD},,{GOOD}]", "a.json, row 2 is not JSON (Expecting value); correct it, or"),
        (
            "a.json",
            f"[{GOOD},]",
            "a.json, row 2 is not JSON (Expecting value; the file may be cut off there); correct it, or",
        ),
        ("a.json", f"[{GOOD},{{x{'}' * 99}", "a.json, row 2 is not JSON (Expecting property name enclosed in double"),
    ],
)
def test_what_is_no_json_is_not_read_as_if_it_were(name: str, content: str, sentence: str) -> None:
    """Of a key that stands twice the last would count, and a comma more or less may be a row less."""
    write(f"data/{name}", content)
    with pytest.raises(UserError) as error:
        read(path=f"data/{name}")
    assert str(error.value).startswith(f"data/{sentence}")


def test_an_array_is_read_alike_wherever_its_chunks_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"prompt": 'a "q" \u20ac \U0001f600', "n": [True, None, -1.5e-3], "m": {"k": "\\"}}
    path = write("data/a.json", json.dumps([row] * 7, indent=1) + "\n \n")
    for chunk in range(1, 60):
        monkeypatch.setattr(formats, "CHUNK", chunk)
        assert list(formats.rows_of(formats.DataFile(path, "a", "a"))) == [(n, row) for n in range(1, 8)]


def test_a_line_keeps_its_number_wherever_the_chunks_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By it ids and messages name a row, also after an empty line."""
    lines = [json.dumps({"n": n}) for n in range(1, 13)]
    lines[3], lines[7] = "", f"{lines[7]}\r"
    path = write("data/a.jsonl", "".join(f"{line}\n" for line in lines))
    for chunk in range(1, 60):
        monkeypatch.setattr(formats, "CHUNK", chunk)
        found = list(formats.rows_of(formats.DataFile(path, "a", "a")))
        assert found == [(n, {"n": n}) for n in range(1, 13) if n != 4]
