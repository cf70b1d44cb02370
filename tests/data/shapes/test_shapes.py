"""Every shape in every format that can hold it gives the same pairs; its wrong twin one sentence with file and row."""

import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from own_data import read, write
from shape_rows import EXAMPLES, Row, bot, system, user

from epsilon_dpo.data.shapes.interface import Dropped, Pair
from epsilon_dpo.data.shapes.recognition import SHAPES, recognise
from epsilon_dpo.pipeline.observability.errors import UserError

FORMATS = ["train.jsonl", "train.json", "train.parquet", "train.arrow", "train.jsonl.gz", "train.csv", "train.tsv.xz"]
CASES = [
    (name, file)
    for name, example in EXAMPLES.items()
    for file in FORMATS
    if example.flat or not any(flat in file for flat in (".csv", ".tsv"))
]


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_shape_has_an_example() -> None:
    assert sorted(shape.name for shape in SHAPES) == sorted(EXAMPLES)


@pytest.mark.parametrize(("name", "file"), CASES)
def test_a_shape_gives_the_same_pairs_in_every_format(name: str, file: str) -> None:
    example = EXAMPLES[name]
    for split in ("train", "test"):
        write(f"data/mine/{file.replace('train', split)}", example.rows)
    dataset = read(eval_split="test", eval_share=None)
    assert dataset.facts["shape"] == name
    for rows, split in ((dataset.train, "train"), (dataset.eval, "test")):
        assert [{key: value for key, value in row.items() if key != "id"} for row in rows] == example.pairs
        dropped = Counter(row["reason"] for row in dataset.dropped or [] if row["split"] == split)
        assert dropped == Counter(example.dropped)


def with_twin(name: str) -> list[Row]:
    example = EXAMPLES[name]
    return [example.rows[0], {**example.rows[1], **example.twin}, *example.rows[2:]]


def has_one_type_per_column(rows: list[Row]) -> bool:
    """Parquet cannot hold the others."""
    try:
        pa.Table.from_pylist(rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return False
    return True


TWINS = [
    (name, file)
    for name, file in CASES
    if file in ("train.jsonl", "train.json", "train.csv")
    or (file == "train.parquet" and has_one_type_per_column(with_twin(name)))
]


@pytest.mark.parametrize(("name", "file"), TWINS)
def test_a_wrong_twin_is_one_sentence(name: str, file: str) -> None:
    path = write(f"data/mine/{file}", with_twin(name)).as_posix()
    with pytest.raises(UserError) as error:
        read(path=path)
    sentence = EXAMPLES[name].sentence
    if file.endswith(".csv"):  # which has no numbers
        sentence = re.sub(r"is number (\d)", r"is text '\1'", sentence)
    assert str(error.value).startswith(f"{path}, row 2: {sentence}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"text": "a"}, "no shape of preference data that is known here; it has text (text)"),
        ({"prompt": "a", "chosen": 3, "rejected": 4}, "it has prompt (text), chosen (number), rejected (number)"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c", "completion": "d", "label": True},
            "columns of several shapes (explicit_text and unpaired)",
        ),
        ({"question": "a", "query": "b", "chosen": "c", "rejected": "d"}, "prompt could be question or query"),
        ({"prompt": "a", "answers": ["b", "c"], "chosen": "b"}, "no shape of preference data"),
        ({"messages": [user("a"), bot("b")]}, "it has messages (messages)"),
        (
            {"instruction": "a", "input": "", "response1": "b", "response2": "c", "rater": 1},
            "It would be two_answers_from_1 with a column verdict.",
        ),
        ({"prompt": "a", "chosen": "b", "reject": "c"}, "It would be explicit_text with a column rejected."),
        ({"prompt": [], "chosen": [], "rejected": []}, "it has prompt (null), chosen (null), rejected (null)"),
        ({"prompt": "a", "chosen": [["b"]], "rejected": [["c"]]}, "chosen (list), rejected (list)"),
    ],
)
def test_what_fits_no_shape_or_several_is_refused_with_its_columns(row: Row, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        recognise([row], "data/x.jsonl")
    assert sentence in str(error.value) and "fetch.columns" in str(error.value)


@pytest.mark.parametrize(
    ("verdicts", "chosen"),
    [((1, 1, 2), "b"), ((2, 0, 2), "c"), ((2, 2, 2), "c"), ((1, 2, 0), None), ((0, 0, 1), None), ((1, 0, 0), None),
     ((1, 1, None), "b"), ((None, 2, ""), "c"), ((1, None, 2), None)],
)  # fmt: skip
def test_of_three_verdicts_the_majority_counts(verdicts: tuple[int | str | None, ...], chosen: str | None) -> None:
    """PandaLM's test set, as it is; a third is often asked only where two disagree."""
    row = {"instruction": "a", "input": "", "response1": "b", "response2": "c"}
    first = row | {f"annotator{n}": 1 for n in (1, 2, 3)}
    row |= {f"annotator{n}": verdict for n, verdict in enumerate(verdicts, start=1)}
    (found,) = recognise([first], "x").read(row, "x, row 1", "best_worst")
    if chosen is None:
        assert isinstance(found, Dropped) and found.reason == "tied"
    else:
        assert isinstance(found, Pair) and found.chosen == [user("a"), bot(chosen)]


def test_what_is_null_in_the_first_rows_is_not_lost_in_the_later_ones() -> None:
    first = {"system": None, "prompt": "a", "chosen": "b", "rejected": "c", "margin": None}
    reading = recognise([first] * 20, "x")
    (found,) = reading.read({**first, "system": "s", "margin": 2.0}, "x, row 21", "all")
    assert found == Pair(*([system("s"), user("a"), bot(text)] for text in "bc"), 2.0)  # type: ignore[arg-type, call-arg]
    with pytest.raises(UserError, match=r"prompt \(null\)"):
        recognise([{"prompt": None, "chosen": "Q\na", "rejected": "Q\nb"}], "x")
    with pytest.raises(UserError, match=r"margin \(objects\)"):
        recognise([{**first, "margin": [{"m": 1}]}], "x")


@pytest.mark.parametrize(
    "written",
    [
        "[{'role': 'user', 'content': 'q'}]",
        '[{"from": "human", "value": "q"}]',
        "{'role': 'assistant', 'content': 'q'}",
        '{"from": "gpt", "value": "q"}',
    ],
)
def test_messages_written_as_text_are_refused(written: str) -> None:
    row = {"prompt": "a", "chosen": written, "rejected": written}
    for odd in (row, row | {"chosen": "[]"}, row | {"chosen": ""}):
        with pytest.raises(UserError, match="x: chosen holds messages written as text; save them as lists"):
            recognise([odd, row, row], "x")
    assert recognise([row, {"prompt": "b", "chosen": "c", "rejected": "d"}], "x").shape.name == "explicit_text"


@pytest.mark.parametrize("said", ['{"value": 3}', '{"content": "x", "role": 1}', '{"role": "nurse", "ward": 3}'])
def test_answers_in_json_are_no_messages(said: str) -> None:
    assert recognise([{"prompt": "a", "chosen": said, "rejected": said}], "x").shape.name == "explicit_text"


def test_columns_decide_where_names_do_not() -> None:
    row = {"frage": "a", "good": "b", "bad": "c", "sys": "s", "chosen": "x", "rejected": "y", "prompt": "z"}
    reading = recognise([row], "x", {"prompt": "frage", "chosen": "good", "rejected": "bad", "system": "sys"})
    (found,) = reading.read(row, "x, row 1", "all")
    assert reading.shape.name == "system_beside"
    assert [turn["content"] for turn in found.chosen] == ["s", "a", "b"]  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"x has no column 'gut' \(fetch\.columns\); it has frage \(text\)"):
        recognise([row], "x", {"prompt": "frage", "chosen": "gut", "rejected": "bad"})
    with pytest.raises(UserError, match=r"row 7: chosen has the keys text, expected role and content.*\(column good\)"):
        reading.read({**row, "good": {"text": "b"}}, "x, row 7", "all")


def test_all_pairs_of_scored_answers() -> None:
    row = {"prompt": "a", "responses": ["b", "c", "d", "e"], "rewards": [1.0, 4.0, 2.0, 2.0]}
    found = recognise([row], "x").read(row, "x", "all")
    assert [getattr(one, "answers", "tied") for one in found] == ["1-2", "1-3", "1-0", "tied", "2-0", "3-0"]
    assert [getattr(one, "margin", 0.0) for one in found] == [2.0, 2.0, 3.0, 0.0, 1.0, 1.0]


def test_ranks_beside_the_answers_are_better_the_lower_they_are() -> None:
    row = {"prompt": "a", "answers": ["b", "c", "d"], "ranks": [2, 3, 1]}
    (found,) = recognise([row], "x").read(row, "x", "best_worst")
    assert found == Pair([user("a"), bot("d")], [user("a"), bot("c")], 2.0, "2-1")


def test_texts_that_differ_within_a_word_part_before_it() -> None:
    row = {"chosen": "The sky is blue.", "rejected": "The sky is black."}
    read = recognise([row], "x").read
    asked = user("The sky is")
    assert read(row, "x", "all") == [Pair([asked, bot("blue.")], [asked, bot("black.")])]
    (found,) = read({"chosen": "Yes.", "rejected": "Yet."}, "x", "all")
    assert isinstance(found, Dropped) and found.reason == "no_common_beginning"


REFUSED = [
    ({"tools": [{"name": "search"}]}, "has tools, which is not supported"),
    ({"images": ["a.png"]}, "has images, which is not supported"),
    ({"chosen": [user("a"), {**bot("b"), "tool_calls": [{"id": 1}]}]}, "turn 2 of chosen has tool_calls"),
    ({"chosen": [user("a"), {**bot("b"), "reasoning_content": "hm"}]}, "turn 2 of chosen has reasoning_content"),
    (
        {"chosen": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}, bot("b")]},
        "turn 1 of chosen is a list of 2 parts (image, text): not supported",
    ),
    ({"rejected": [user("a"), ["b"]]}, "turn 2 of rejected is texts ['b'], expected"),
    ({"rejected": {"role": "user"}}, "rejected is object"),
]


@pytest.mark.parametrize(("change", "sentence"), REFUSED, ids=[sentence[:30] for _, sentence in REFUSED])
def test_nothing_is_flattened_in_silence(change: Row, sentence: str) -> None:
    row = EXAMPLES["implicit_messages"].rows[0]
    reading = recognise([row], "x")
    with pytest.raises(UserError) as error:
        reading.read({**row, **change}, "x, row 3", "all")
    assert sentence in str(error.value) and str(error.value).startswith("x, row 3: ")


@pytest.mark.parametrize(
    "key", ["reasoning", "function_calls", "functions", "tools", "image", "audio", "video", "videos"]
)
def test_what_stands_beside_the_content_of_a_turn_is_refused(key: str) -> None:
    row = {side: [user("a"), {**bot(side), key: "x"}] for side in ("chosen", "rejected")}
    with pytest.raises(UserError, match=f"x, row 1: turn 2 of chosen has {key}: not supported"):
        recognise([row], "x").read(row, "x, row 1", "all")
    for empty in (None, [], "[]", float("nan")):
        row = {side: [user("a"), {**bot(side), key: empty}] for side in ("chosen", "rejected")}
        assert isinstance(recognise([row], "x").read(row, "x, row 1", "all")[0], Pair)


def test_one_text_part_is_that_text() -> None:
    row = {"chosen": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, bot("b")], "rejected": [user("a")]}
    (found,) = recognise([row], "x").read(row, "x", "all")
    assert found.chosen == [user("a"), bot("b")]  # type: ignore[union-attr]
