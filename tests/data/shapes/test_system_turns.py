"""A system turn that stands in two places is one, and one that says nothing is none."""

import pytest
from shape_rows import Row, bot, system, user

from epsilon_dpo.data.shapes.interface import Pair
from epsilon_dpo.data.shapes.recognition import recognise
from epsilon_dpo.pipeline.observability.errors import UserError

PROMPT = [user("a")]
SIDES: Row = {"chosen": [bot("b")], "rejected": [bot("c")]}
SCORES: Row = {"score_chosen": 2.0, "score_rejected": 1.0}


def read(row: Row) -> Pair:
    (found,) = recognise([row], "x").read(row, "x, row 1", "all")
    assert isinstance(found, Pair)
    return found


def dialogues(first: list[Row]) -> Row:
    return {side: [*first, *PROMPT, *turns] for side, turns in SIDES.items()}


def with_prompt(first: list[Row], **answers: Row) -> Row:
    return {"prompt": [*first, *PROMPT], **(answers or SIDES)}


def in_every_shape(first: list[Row]) -> list[Row]:
    """Rows whose turns begin with `first`."""
    answers = {"response_a": "b", "response_b": "c", "winner": "a"}
    return [
        with_prompt(first),
        dialogues(first),
        {**dialogues(first), "prompt": "a"},
        {**dialogues(first), "prompt": "a", **SCORES},
        {"conversations": [*first, *PROMPT], "chosen": bot("b"), "rejected": bot("c")},
        {**with_prompt(first, **answers)},
        {**with_prompt(first), "chosen": dialogues(first)["chosen"], "rejected": dialogues(first)["rejected"]},
        {"prompt": [*first, *PROMPT], "answers": [{"text": "b", "score": 2}, {"text": "c", "score": 1}]},
    ]


NAMES = ("explicit", "implicit", "beside", "ultrafeedback", "sharegpt", "two answers", "whole sides", "scored")


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_a_system_column_beside_the_same_system_turn_is_one_turn(number: int) -> None:
    row = in_every_shape([system("s")])[number] | {"system": "s"}
    found = read(row)
    assert found.chosen == [system("s"), *PROMPT, bot("b")] and found.rejected == [system("s"), *PROMPT, bot("c")]
    with pytest.raises(
        UserError, match=r"x, row 1: system is text 't', but \w+ begins with the system turn 's'; leave"
    ):
        read(row | {"system": "t"})


@pytest.mark.parametrize("content", ["", " \n", None, float("nan"), [], [{"type": "text", "text": ""}]], ids=str)
@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_a_system_turn_that_says_nothing_is_none(number: int, content: object) -> None:
    """It cost the row: as null, or as a turn without text."""
    found = read(in_every_shape([{"role": "system", "content": content}])[number])
    assert found.chosen == [*PROMPT, bot("b")] and found.rejected == [*PROMPT, bot("c")]


@pytest.mark.parametrize("beside", ["", " \n", None, float("nan")], ids=str)
def test_a_system_column_that_says_nothing_is_none(beside: object) -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "system": "s"}
    (found,) = recognise([row], "x").read(row | {"system": beside}, "x, row 2", "all")
    assert found == Pair([*PROMPT, bot("b")], [*PROMPT, bot("c")])
    assert read(with_prompt([system("s")]) | {"system": beside}).chosen[0] == system("s")


def test_another_empty_turn_stays_for_the_contract() -> None:
    row = {side: [user(""), *turns] for side, turns in SIDES.items()}
    assert read(row).chosen == [user(""), bot("b")]


def test_a_system_turn_with_tools_says_something() -> None:
    first = {"role": "system", "content": "", "tool_calls": [{"id": 1}]}
    with pytest.raises(UserError, match="turn 1 of chosen has tool_calls: not supported"):
        read(dialogues([first]))


@pytest.mark.parametrize(
    ("prompt", "sides", "column"),
    [
        ([], [system("s")], None),  # the answers are entire dialogues, and only they have it
        ([system("s")], [], None),
        ([], [], "s"),
        ([], [system("s")], "s"),
    ],
)
def test_the_system_turn_of_entire_dialogues_is_read_where_it_stands(
    prompt: list[Row], sides: list[Row], column: str | None
) -> None:
    row = {"prompt": [*prompt, *PROMPT], **dialogues(sides)} | ({"system": column} if column else {})
    assert read(row).chosen == [system("s"), *PROMPT, bot("b")]


def test_answers_that_are_entire_dialogues_do_not_double_the_prompt() -> None:
    entire = dialogues([system("s")])
    row = {"prompt": PROMPT, "response_a": entire["chosen"], "response_b": entire["rejected"], "winner": "b"}
    assert read(row).chosen == [system("s"), *PROMPT, bot("c")]
    with pytest.raises(UserError, match="response_a begins with a turn by user but not with the prompt"):
        read(row | {"response_a": [user("z"), bot("b")]})
