"""What a row says beyond its shape's usual columns and values is read as it is meant or refused, never lost."""

import pytest
from shape_rows import EXAMPLES, Row, bot, system, user

from epsilon_dpo.data.shapes.interface import Dropped, Pair
from epsilon_dpo.data.shapes.recognition import recognise
from epsilon_dpo.pipeline.observability.errors import UserError


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ([{"text": "b", "score": 0.1}, {"text": "c", "rank": 1}], "answers 0 and 1 are scored by score and by rank"),
        (
            [{"text": "b", "fine-grained_score": 4.0}, {"text": "c", "overall_score": 9.0}],
            "answers 0 and 1 are scored by fine-grained_score and by overall_score",
        ),
    ],
)
def test_answers_of_one_row_have_one_scale(answers: list[Row], sentence: str) -> None:
    row = {"prompt": "a", "answers": answers}
    with pytest.raises(UserError, match=f"x, row 1: {sentence}"):
        recognise([row], "x").read(row, "x, row 1", "all")


@pytest.mark.parametrize("empty", ["", None, float("nan"), "nan"])
def test_an_empty_optional_number_costs_no_pair(empty: object) -> None:
    beside = dict.fromkeys(("margin", "weight", "score_chosen", "score_rejected"), empty)
    shp = EXAMPLES["shp"].rows[0]
    for row, change in (({"prompt": "a", "chosen": "b", "rejected": "c"}, beside), (shp, {"score_A": empty})):
        full = row | {name: 1.0 for name in change}
        (found,) = recognise([full], "x").read(row | change, "x, row 2", "all")
        assert isinstance(found, Pair) and found.margin is None and found.weight is None


@pytest.mark.parametrize("name", ["two_answers_from_0", "scored_answers", "signed_preference"])
def test_a_negative_weight_is_refused_in_every_shape(name: str) -> None:
    row = EXAMPLES[name].rows[0] | {"weight": -0.5}
    with pytest.raises(UserError, match=r"x, row 1: weight is -0\.5, expected at least 0"):
        recognise([row], "x").read(row, "x, row 1", "all")


ASKED: Row = {"prompt": [user("a")], "input": "x", "response_a": "b", "response_b": "c", "winner": "a"}


@pytest.mark.parametrize(
    ("first", "change", "said"),
    [
        (EXAMPLES["scored_answers"].rows[0], {"answers": None}, "answers is null"),
        (EXAMPLES["scored_answers"].rows[0], {"answers": 5}, "answers is number 5, expected a list of answers"),
        (
            EXAMPLES["scored_answers"].rows[0],
            {"answers": [{"text": "b", "score": 10**400}]},
            "score of answer 0 is inf",
        ),
        (EXAMPLES["summaries"].rows[0], {"summaries": None}, "summaries is null"),
        (EXAMPLES["summaries"].rows[0], {"summaries": 2}, 'summaries is number 2, expected a list of {"text": ...}'),
        (EXAMPLES["summaries"].rows[0], {"info": None}, "info is null"),
        (EXAMPLES["summaries"].rows[0], {"info": "Tea"}, "info is text 'Tea', expected a mapping"),
        (EXAMPLES["alpaca"].rows[0], {"history": 5}, "history is number 5, expected a list of [question, answer]"),
        (ASKED, {"prompt": []}, "prompt holds no message"),
    ],
)
def test_a_value_of_another_kind_in_a_later_row_is_no_traceback(first: Row, change: Row, said: str) -> None:
    """Null drops the row by name; what is mistyped stops with file and row."""
    reading = recognise([first], "x")
    try:
        (found,) = reading.read(first | change, "x, row 30", "all")
    except UserError as error:
        assert str(error).startswith(f"x, row 30: {said}")
    else:
        assert isinstance(found, Dropped) and (found.reason, found.detail) == ("null", said)


def test_0_on_answers_1_and_2_is_refused_where_it_may_be_the_first() -> None:
    rows = [{"prompt": "a", "response_1": "b", "response_2": "c", "label": n % 2} for n in range(40)]
    for label in (0, 0.0, "0"):
        with pytest.raises(UserError, match=r"x, row 7: verdict is 0.* response_0: response_1, response_1: response_2"):
            recognise(rows[:20], "x").read(rows[0] | {"label": label}, "x, row 7", "all")
    said = {"prompt": "prompt", "response_0": "response_1", "response_1": "response_2", "verdict": "label"}
    read = recognise(rows[:20], "x", said).read
    assert [pair.chosen[-1] for row in rows[:2] for pair in read(row, "x", "all")] == [bot("b"), bot("c")]  # type: ignore[union-attr]
    for sure in ({"label": 2}, {"label": "response_1"}):  # 0 is none of the answers then
        assert isinstance(recognise([*rows[:19], rows[0] | sure], "x").read(rows[0], "x", "all")[0], Dropped)


PAIRED: Row = {"prompt": "a", "chosen": "b", "rejected": "c"}


@pytest.mark.parametrize(
    ("row", "column"),
    [
        (PAIRED | {"history": [["q", "r"]]}, "history"),
        (PAIRED | {"input": "x"}, "input"),
        ({"prompt": "a", "context": "d", "response_0": "b", "response_1": "c", "label": 1}, "context"),
    ],
)
def test_a_part_of_the_prompt_that_is_not_read_is_refused(row: Row, column: str) -> None:
    read = recognise([row], "x").read
    with pytest.raises(UserError, match=rf"x, row 9: has {column}, .* fetch\.columns: {{prompt: prompt, "):
        read(row, "x, row 9", "all")
    assert isinstance(read(row | {column: None}, "x", "all")[0], Pair)
    columns = {"verdict" if name == "label" else name: name for name in row if name != column}
    assert isinstance(recognise([row], "x", columns).read(row, "x", "all")[0], Pair)


def test_two_verdicts_are_refused() -> None:
    row = {"prompt": "a", "response_0": "b", "response_1": "c", "verdict": 0, "preference": 1}
    with pytest.raises(UserError, match=r"whose verdict could be verdict or preference; say which with fetch\.columns"):
        recognise([row], "x")


def test_ratings_of_both_sides_are_scores() -> None:
    row = PAIRED | {"rating_chosen": 4.0, "rating_rejected": 4.0}
    reading = recognise([row], "x")
    assert isinstance(reading.read(row, "x", "all")[0], Dropped)
    (found,) = reading.read(row | {"rating_rejected": 1.0}, "x", "all")
    assert isinstance(found, Pair) and found.margin == 3.0


@pytest.mark.parametrize("null_first", [False, True])
def test_an_optional_column_that_comes_late_is_read(null_first: bool) -> None:
    """Also if the first rows, by which the file is recognised, have it as null: sparse JSON lines, joined files."""

    def read(first: Row, late: Row) -> Pair:
        (found,) = recognise([first | dict.fromkeys(late if null_first else ())] * 20, "x").read(
            first | late, "x", "all"
        )
        assert isinstance(found, Pair)
        return found

    late = {"system_prompt": "s", "rating_chosen": 3.0, "rating_rejected": 1.0, "weight": 0.5}
    assert read(PAIRED, late) == Pair(*([system("s"), user("a"), bot(answer)] for answer in "bc"), 2.0, 0.5)
    alpaca = {"instruction": "a", "chosen": "b", "rejected": "c"}
    found = read(alpaca, {"input": "x", "history": [["q", "r"]]})
    assert found.chosen == [user("q"), bot("r"), user("a\nx"), bot("b")]


@pytest.mark.parametrize(
    ("first", "late", "said"),
    [
        ({"chosen": "Q\nb", "rejected": "Q\nc"}, {"prompt": "a"}, "has prompt, which none of the first rows has"),
        (EXAMPLES["scored_answers"].rows[0], {"chosen": "b"}, "has chosen, which none of the first rows has"),
        (PAIRED, {"history": [["q", "r"]]}, "has history, which may be a part of the prompt"),
        (PAIRED, {"chosen_score": 1.0, "chosen_rating": 5.0}, "score_chosen could be chosen_score or chosen_rating"),
    ],
)
def test_a_late_column_that_the_shape_cannot_read_is_refused(first: Row, late: Row, said: str) -> None:
    with pytest.raises(UserError, match=f"x, row 26: {said}"):
        recognise([first] * 20, "x").read(first | late, "x, row 26", "all")


@pytest.mark.parametrize(
    ("prompt", "alike"),
    [
        ({"Input": "Tell me about tea."}, {"chosen": "I think it is hot.", "rejected": "I think it depends."}),
        ({"conversation_so_far": [user("a")]}, {"chosen": [bot("b")], "rejected": [bot("c")]}),
        ({"frage": "Wer?"}, {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}),
    ],
)
def test_no_prompt_is_invented_where_a_column_may_hold_it(prompt: Row, alike: Row) -> None:
    (column,) = prompt
    said = rf"{column} may be the prompt; say with fetch\.columns: {{prompt: {column}, chosen: chosen, "
    with pytest.raises(UserError, match=said):
        recognise([prompt | alike], "x")
    beside = {"id": "n 1", "source": "a set", "chosen_model": "m", "Prompt_ID": "7f", "length": "12.5", "lang": "en"}
    reading = recognise([alike | beside], "x")
    assert isinstance(reading.read(alike | beside, "x", "all")[0], Pair)
    with pytest.raises(UserError, match=f"x, row 30 .*{said}"):
        reading.read(alike | prompt, "x, row 30", "all")
    assert recognise([prompt | alike], "x", {"chosen": "chosen", "rejected": "rejected"}).seen is None
