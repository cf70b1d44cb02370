"""What a row says beyond its shape's usual columns and values is read as it is meant or refused, never lost."""

import re
from decimal import Decimal

import pytest
from shape_rows import EXAMPLES, Row, bot, system, user

from epsilon_dpo.data.shapes.interface import Dropped, Pair, Unreadable
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
    beside = dict.fromkeys(("margin", "score_chosen", "score_rejected"), empty)
    shp = EXAMPLES["shp"].rows[0]
    for row, change in (({"prompt": "a", "chosen": "b", "rejected": "c"}, beside), (shp, {"score_A": empty})):
        full = row | {name: 1.0 for name in change}
        (found,) = recognise([full], "x").read(row | change, "x, row 2", "all")
        assert isinstance(found, Pair) and found.margin is None


@pytest.mark.parametrize("name", list(EXAMPLES))
@pytest.mark.parametrize(
    "weight", [0.5, 0, "1.0", True, [0.5], Unreadable("date32[day]", "year 5881580 is out of range")]
)
def test_a_weight_is_refused_in_every_shape_since_no_method_reads_it(name: str, weight: object) -> None:
    first = EXAMPLES[name].rows[0]
    reading = recognise([first] * 3, "x")
    mapped = re.escape(", ".join(f"{own}: {column}" for own, column in reading.names.items()))
    sentence = (
        "^x, row 9: has weight, but every pair counts alike here, whatever the method; remove the column, or leave it "
        rf"out with fetch\.columns: \{{{mapped}\}}"
    )
    for head in (first, first | {"weight": weight}):
        with pytest.raises(UserError, match=sentence):
            recognise([head] * 3, "x").read(first | {"weight": weight}, "x, row 9", "all")
    for empty in (None, "", float("nan")):
        assert reading.read(first | {"weight": empty}, "x", "all") == reading.read(first, "x", "all")


PAIRED: Row = {"prompt": "a", "chosen": "b", "rejected": "c"}
ASKED: Row = {"prompt": [user("a")], "input": "x", "response_a": "b", "response_b": "c", "winner": "a"}


DEEP: list[object] = []
for _ in range(5000):
    DEEP = [DEEP]


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
        (EXAMPLES["scored_answers"].rows[0], {"answers": [{"answer": "b", "rank": 1}, None]}, "answer 1 is null"),
        (EXAMPLES["summaries"].rows[0], {"summaries": None}, "summaries is null"),
        (EXAMPLES["summaries"].rows[0], {"summaries": 2}, 'summaries is number 2, expected a list of {"text": ...}'),
        (EXAMPLES["summaries"].rows[0], {"summaries": [{"text": "b"}, None]}, "a summary is null"),
        (EXAMPLES["summaries"].rows[0], {"info": None}, "info is null"),
        (EXAMPLES["summaries"].rows[0], {"info": "Tea"}, "info is text 'Tea', expected a mapping"),
        (EXAMPLES["alpaca"].rows[0], {"history": 5}, "history is number 5, expected a list of [question, answer]"),
        (EXAMPLES["alpaca"].rows[0], {"history": [["q", "r"], None]}, "an exchange of history is null"),
        (ASKED, {"prompt": []}, "prompt holds no message"),
        (EXAMPLES["alpaca"].rows[0], {"instruction": []}, "instruction holds no message"),
        (PAIRED, {"chosen": DEEP}, "turn 1 of chosen is list of lists within lists, expected"),
        (
            PAIRED,
            {"chosen": {"role": DEEP, "content": "b"}},
            "chosen is by list of lists within lists, which",
        ),
        (PAIRED, {"chosen": {"role": ["user"], "content": "b"}}, "chosen is by texts ['user'], which is no role"),
        (EXAMPLES["unpaired"].rows[0], {"label": DEEP}, "label is list of lists within lists, expected true or false"),
        (PAIRED, {"score_chosen": 1e308, "score_rejected": -1e308}, "the margin of 1e+308 and -1e+308 is inf"),
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


LETTERED: Row = {"prompt": "a b", "response_a": "b", "response_b": "c", "winner": "a"}


@pytest.mark.parametrize("row", [PAIRED | {"prompt": "Read:\na b"}, LETTERED, {**ASKED, "prompt": [user("a b")]}])
@pytest.mark.parametrize("column", ["instruction", "question", "query", "conversations"])
def test_a_second_prompt_is_refused_unless_the_first_holds_it(row: Row, column: str) -> None:
    read = recognise([row | {column: "z"}], "x").read
    for other in ("Translate.", [user("q"), bot("r"), user("a b")]):
        with pytest.raises(UserError, match=rf"x, row 9: has {column}, .* fetch\.columns: {{prompt: prompt, "):
            read(row | {column: other}, "x, row 9", "all")
    for same in ("a  b\n", "", None, [user("a b"), bot("b")]):
        assert isinstance(read(row | {column: same}, "x", "all")[0], Pair)


def test_a_second_prompt_beside_entire_dialogues_is_not_looked_at() -> None:
    """orpo-dpo-mix has question and prompt; the dialogue counts."""
    row = EXAMPLES["prompt_beside_dialogues"].rows[0] | {"question": "another"}
    assert isinstance(recognise([row], "x").read(row, "x", "all")[0], Pair)
    with pytest.raises(UserError, match="x: has question"):  # as answers alone
        recognise([row], "x").read(row | {"chosen": [bot("b")], "rejected": [bot("c")]}, "x", "all")


@pytest.mark.parametrize("name", ["rating_{}", "{}_avg_rating", "{}-avg-rating"])
@pytest.mark.parametrize("number", [float, Decimal])
def test_ratings_of_both_sides_are_scores(name: str, number: type) -> None:
    """Decimals are parquet's."""
    row = PAIRED | {name.format(side): number("4.0") for side in ("chosen", "rejected")}
    reading = recognise([row], "x")
    assert isinstance(reading.read(row, "x", "all")[0], Dropped)
    (found,) = reading.read(row | {name.format("rejected"): number("1.0")}, "x", "all")
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

    late = {"system_prompt": "s", "rating_chosen": 3.0, "rating_rejected": 1.0}
    assert read(PAIRED, late) == Pair(*([system("s"), user("a"), bot(answer)] for answer in "bc"), 2.0)
    alpaca = {"instruction": "a", "chosen": "b", "rejected": "c"}
    assert read(alpaca, {"history": float("nan")}) == read(alpaca, {"history": []})  # pandas' null
    found = read(alpaca, {"input": "x", "history": [["q", "r"]]})
    assert found.chosen == [user("q"), bot("r"), user("a\nx"), bot("b")]


def test_beside_a_column_without_a_name_a_late_column_is_read() -> None:
    """polars calls the index that pandas has written so."""
    (found,) = recognise([PAIRED | {"": 0}] * 20, "x").read(PAIRED | {"": 20, "system": "s"}, "x", "all")
    assert found == Pair(*([system("s"), user("a"), bot(answer)] for answer in "bc"))


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
    if str(alike["chosen"]).startswith("\n\nHuman"):  # beside transcripts no shape reads a prompt
        said = f"{column} may be the prompt; write it into chosen and rejected if it is, or set fetch.columns to"
    with pytest.raises(UserError, match=said):
        recognise([prompt | alike], "x")
    beside = {"id": "n 1", "source": "a set", "chosen_model": "m", "Prompt_ID": "7f", "length": "12.5", "lang": "en"}
    reading = recognise([alike | beside], "x")
    assert isinstance(reading.read(alike | beside, "x", "all")[0], Pair)
    with pytest.raises(UserError, match=f"x, row 30 .*{said}"):
        reading.read(alike | prompt, "x, row 30", "all")
    assert recognise([prompt | alike], "x", {"chosen": "chosen", "rejected": "rejected"}).seen is None


def test_a_deep_column_beside_the_pairs_costs_nothing() -> None:
    row = PAIRED | {"trace": DEEP}
    assert isinstance(recognise([row], "x").read(row, "x", "all")[0], Pair)


@pytest.mark.parametrize(("column", "there"), [("system", "s"), ("input", "i"), ("history", [["q", "r"]])])
@pytest.mark.parametrize("first", [True, False])
def test_nan_is_null_whatever_the_column_holds(column: str, there: object, first: bool) -> None:
    """pandas writes it for an empty cell; a number among texts it is not."""
    plain = {"instruction": "a", "chosen": "b", "rejected": "c"} if column != "system" else PAIRED
    rows = [plain | {column: there}, plain | {column: float("nan")}]
    reading = recognise(rows[::-1] if first else rows, "x")
    (without,) = reading.read(rows[1], "x", "all")
    assert without == Pair([user("a"), bot("b")], [user("a"), bot("c")])
    assert recognise([rows[1]] * 20, "x").read(rows[0], "x", "all") == reading.read(rows[0], "x", "all") != [without]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        (PAIRED, "prompt"),
        (PAIRED, "chosen"),
        (EXAMPLES["two_answers_lettered"].rows[0], "winner"),
        (EXAMPLES["unpaired"].rows[0], "label"),
        (EXAMPLES["scored_answers"].rows[0], "answers"),
        (EXAMPLES["implicit_messages"].rows[0], "rejected"),
    ],
)
def test_nan_in_a_column_that_a_pair_needs_drops_the_row_as_null(row: Row, column: str) -> None:
    (found,) = recognise([row | {column: float("nan")}, row], "x").read(row | {column: float("nan")}, "x", "all")
    assert isinstance(found, Dropped) and found.reason == "null" and " is null" in found.detail


def test_a_null_turn_drops_its_row() -> None:
    row = EXAMPLES["implicit_messages"].rows[0]
    (found,) = recognise([row], "x").read(row | {"chosen": [user("a"), None]}, "x", "all")
    assert found == Dropped("null", "turn 2 of chosen is null")


@pytest.mark.parametrize("column", ["images", "history", "context", "note"])
def test_nan_is_no_value_that_could_be_lost(column: str) -> None:
    row = {"chosen": "Q\nb", "rejected": "Q\nc", column: float("nan")}
    assert isinstance(recognise([row], "x").read(row, "x", "all")[0], Pair)


def test_a_system_column_that_the_shape_does_not_read_is_refused() -> None:
    entire = {side: [user("a"), bot(side)] for side in ("chosen", "rejected")}
    row = {"conversation_a": entire["chosen"], "conversation_b": entire["rejected"], "winner": "model_a"}
    read = recognise([row], "x").read
    assert isinstance(read(row, "x", "all")[0], Pair)
    with pytest.raises(UserError, match="has system, which may be a part of the prompt, and arena does not read it"):
        read(row | {"system": "s"}, "x", "all")


MAPPED = {"prompt": "frage", "chosen": "gut", "rejected": "schlecht"}
BESIDE: Row = {
    "images": ["a.png"],
    "tools": [{"name": "f"}],
    "audio": {"bytes": "x"},
    "history": [["q", "r"]],
    "system": "s",
    "prompt": [user("z")],
    "chosen": 3,
    "completion": "x",
    "label": True,
    "weight": "heavy",
    "note": float("nan"),
    "trace": DEEP,
    "when": Unreadable("timestamp[s]", "year 58494 is out of range"),
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("column", list(BESIDE))
def test_with_mapped_columns_no_other_is_looked_at(column: str, late: bool) -> None:
    row = {"frage": "a", "gut": "b", "schlecht": "c"}
    full = row | {column: BESIDE[column]}
    reading = recognise([row if late else full] * 3, "x", MAPPED)
    assert reading.read(full, "x", "all") == [Pair([user("a"), bot("b")], [user("a"), bot("c")])]


def test_a_mapped_column_that_the_shape_does_not_read_is_refused() -> None:
    row = {"frage": "a", "gut": "b", "schlecht": "c", "davor": [["q", "r"]], "andere": "d"}
    for name, column in (("history", "davor"), ("question", "andere")):
        with pytest.raises(
            UserError, match=f"x reads as explicit_text, which has no {name}; leave it out of fetch.col"
        ):
            recognise([row], "x", {**MAPPED, name: column})


def test_mapped_columns_of_two_shapes_are_advised_by_the_files_names() -> None:
    row = {"frage": "a", "gut": "b", "schlecht": "c", "eins": "b", "zwei": "c", "urteil": 1}
    columns = {**MAPPED, "response_1": "eins", "response_2": "zwei", "verdict": "urteil"}
    with pytest.raises(UserError, match=r"such as \{prompt: frage, chosen: gut, rejected: schlecht\} \("):
        recognise([row], "x", columns)


def transcripts(number: int) -> Row:
    return {side: f"\n\nHuman: q{number}\n\nAssistant: {side}" for side in ("chosen", "rejected")}


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"chosen": "It is a dog.", "rejected": "It is a cat."}, "chosen does not begin with"),
        ({"chosen": "", "rejected": transcripts(0)["rejected"]}, "chosen does not begin with"),
        ({"chosen": transcripts(0)["chosen"], "rejected": "Hi."}, "rejected does not begin with"),
        ({"chosen": [user("a")], "rejected": [user("a")]}, "chosen is messages "),
        ({"chosen": 5, "rejected": 6}, ""),
    ],
)
@pytest.mark.parametrize("place", [0, 3, 25])
def test_an_odd_row_decides_nothing_for_the_others_wherever_it_stands(odd: Row, said: str, place: int) -> None:
    """The first one made of transcripts texts whose prompt was a dialogue, or a file that could not be read."""
    rows = [transcripts(number) for number in range(30)]
    rows[place] = odd
    reading = recognise(rows[:20], "x")
    assert reading.shape.name == "transcripts"
    assert isinstance(reading.read(rows[29], "x", "all")[0], Pair)
    if said:
        with pytest.raises(UserError, match=f"x, row {place}: {said}"):
            reading.read(odd, f"x, row {place}", "all")
    else:
        (found,) = reading.read(odd, "x", "all")
        assert isinstance(found, Dropped) and found.reason == "not_text"


@pytest.mark.parametrize(
    "odd", [{"prompt": 1, "chosen": 2, "rejected": 3}, {"chosen": "Human: b", "rejected": "Human: c"}]
)
def test_an_odd_first_row_of_texts_is_read_as_the_others(odd: Row) -> None:
    reading = recognise([PAIRED | odd, *[PAIRED] * 9], "x")
    assert reading.shape.name == "explicit_text" and isinstance(reading.read(PAIRED, "x", "all")[0], Pair)


def test_a_transcript_among_texts_is_no_prompt() -> None:
    rows = [{"chosen": f"Is {n} even?\nYes.", "rejected": f"Is {n} even?\nNo."} for n in range(5)]
    for place in (0, 3):
        with pytest.raises(
            UserError, match="x, row 9: chosen begins as transcripts do, and most of the first rows do not"
        ):
            recognise([*rows[:place], transcripts(0), *rows[place:]], "x").read(transcripts(0), "x, row 9", "all")


def test_transcripts_with_the_line_ends_of_windows_have_their_turns() -> None:
    row = {side: text.replace("\n", "\r\n") for side, text in transcripts(1).items()}
    assert recognise([row], "x").read(row, "x", "all") == recognise([transcripts(1)], "x").read(
        transcripts(1), "x", "all"
    )
    asked = {"prompt": "\r\n\r\nHuman: a\r\n\r\nAssistant:", "chosen": "b", "rejected": "c"}
    assert recognise([asked], "x").read(asked, "x", "all") == [Pair([user("a"), bot("b")], [user("a"), bot("c")])]


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"chosen_rating": [1.0]}, "It would be explicit_text, but for chosen_rating, which is numbers. "),
        ({"margin": [1.0]}, "It would be explicit_text, but for margin, which is numbers. "),
        ({"prompt": 3}, ""),  # it has a column prompt, so none is missing
    ],
)
def test_what_stands_between_a_file_and_its_shape_is_named(change: Row, hint: str) -> None:
    with pytest.raises(UserError) as error:
        recognise([PAIRED | change], "x")
    assert ("It would be" in str(error.value)) == bool(hint) and hint in str(error.value)


@pytest.mark.parametrize(
    "sides",
    [
        {"chosen": '["Berlin","Paris"]', "rejected": '["Berlin"]'},
        {"chosen": "User: x\nAssistant: y", "rejected": "no"},
        {"chosen": "<|im_start|> begins a turn", "rejected": "no"},
    ],
)
def test_an_answer_may_be_a_list_or_a_dialogue(sides: Row) -> None:
    row = {"prompt": "a", **sides}
    assert recognise([row], "x").read(row, "x", "all") == [Pair(*([user("a"), bot(one)] for one in sides.values()))]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "a", "response_a": "b", "response_b": "c", "label": "a"},
        {"prompt": "a", "response_1": "b", "response_2": "c", "label": 1},
        {"query": "a", "answers": [{"text": "b", "score": 2}, {"text": "c", "score": 1}], "label": "x"},
        {"context": None, "chosen": [user("a"), bot("b")], "rejected": [user("a"), bot("c")]},
    ],
)
def test_a_prompt_in_a_column_of_its_own_comes_before_one_in_a_dialogue_beside_it(row: Row) -> None:
    beside = row if "context" in row else row | {"messages": [user("a"), bot("b")]}
    assert recognise([beside], "x").read(beside, "x", "all") == recognise([row], "x").read(row, "x", "all")
    assert isinstance(recognise([row], "x").read(row, "x", "all")[0], Pair)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([PAIRED | {"initial_reason_steps": "So"}], "has initial_reason_steps, which may be a part of the prompt"),
        ([PAIRED | {"video_path": "a.mp4"}], "has video_path, which is not supported"),
        (
            [
                {"prompt": prompt, "response_a": '["b"]', "response_b": '["c"]', "winner": "a"}
                for prompt in ('["q", "r"]', "[]", '["q')
            ],
            "prompt holds lists written as text",
        ),
        (
            [{"q": "a", "completion_a": "b", "completion_b": "c", "label": 1}],
            r"x has no shape of preference data that is known here; it has .*label \(number\)\. It would be "
            "two_answers_lettered with a column prompt",
        ),
    ],
)
def test_published_sets_that_were_read_wrongly_are_refused(rows: list[Row], said: str) -> None:
    """Step-DPO's common steps, a set of videos, turns in one text; no second answer is advised to be a completion."""
    with pytest.raises(UserError, match=said):
        recognise(rows, "x").read(rows[0], "x, row 1", "all")
