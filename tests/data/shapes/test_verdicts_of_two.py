"""What a verdict on two answers names, in the spellings of published sets: one of them, a tie, or nothing sure."""

from decimal import Decimal

import pytest
from shape_rows import bot, system, user

from epsilon_dpo.data.shapes.interface import Dropped, Half, Pair
from epsilon_dpo.data.shapes.recognition import recognise
from epsilon_dpo.pipeline.observability.errors import UserError


def test_0_on_answers_1_and_2_is_refused_where_it_may_be_the_first() -> None:
    rows = [{"prompt": "a", "response_1": "b", "response_2": "c", "label": n % 2} for n in range(40)]
    for label in (0, 0.0, "0"):
        for head in (rows[:20], [*rows[:19], rows[0] | {"label": 2}]):  # Auto-J's 2 is the tie
            with pytest.raises(UserError, match=r"row 7: verdict is 0.* annotator1: label.* response_0: response_1, "):
                recognise(head, "x").read(rows[0] | {"label": label}, "x, row 7", "all")
    said = {"prompt": "prompt", "response_0": "response_1", "response_1": "response_2", "verdict": "label"}
    read = recognise(rows[:20], "x", said).read
    assert [pair.chosen[-1] for row in rows[:2] for pair in read(row, "x", "all")] == [bot("b"), bot("c")]  # type: ignore[union-attr]
    (tie,) = read(rows[0] | {"label": 2}, "x", "all")
    assert isinstance(tie, Dropped) and tie.reason == "tied"
    from_1 = [row | {"label": 1 + n % 2} for n, row in enumerate(rows)]  # whose numbering the mapping has wrong
    with pytest.raises(UserError, match="verdict is number 2, which names neither answer"):
        recognise(from_1, "x", said).read(from_1[1], "x", "all")
    columns = {"prompt": "prompt", "response_1": "response_1", "response_2": "response_2", "annotator1": "label"}
    assert isinstance(recognise(rows[:20], "x", columns).read(rows[0], "x", "all")[0], Dropped)
    named = [*rows[:19], rows[0] | {"label": "response_1"}]  # 0 is none of the answers then
    assert isinstance(recognise(named, "x").read(rows[0], "x", "all")[0], Dropped)
    alpaca_eval = [{"preference" if name == "label" else name: x for name, x in row.items()} for row in rows]
    assert isinstance(
        recognise([*alpaca_eval, alpaca_eval[0] | {"preference": 2}], "x").read(alpaca_eval[0], "x", "all")[0], Dropped
    )
    with pytest.raises(UserError, match="verdict is 0"):
        recognise(alpaca_eval, "x").read(alpaca_eval[0], "x", "all")


def test_two_verdicts_are_refused() -> None:
    row = {"prompt": "a", "response_0": "b", "response_1": "c", "verdict": 0, "preference": 1}
    with pytest.raises(UserError, match=r"whose verdict could be verdict or preference; say which with fetch\.columns"):
        recognise([row], "x")


def test_a_verdict_may_be_a_decimal_and_a_text_may_not() -> None:
    row = {"prompt": "a", "response_0": "b", "response_1": "c", "label": Decimal("1.00")}
    (found,) = recognise([row], "x").read(row, "x", "all")
    assert isinstance(found, Pair) and found.chosen[-1] == bot("c")
    (dropped,) = recognise([row], "x").read(row | {"response_1": Decimal(1)}, "x", "all")
    assert isinstance(dropped, Dropped) and dropped.reason == "not_text"
    half = {"prompt": "a", "completion": "b", "label": Decimal("0.00")}
    (judged,) = recognise([half], "x").read(half, "x", "all")
    assert isinstance(judged, Half) and not judged.good


@pytest.mark.parametrize(
    ("label", "good"),
    [
        *((label, True) for label in (True, "True", 1, 1.0, "1", "1.0", Decimal("1.00"))),
        *((label, False) for label in (False, "false", 0, 0.0, "0", "0.0")),
    ],
)
def test_a_label_says_the_same_as_flag_number_and_text(label: object, good: bool) -> None:
    """pandas makes 1.0 and 0.0 of a column of 1 and 0 in which one is absent."""
    row = {"prompt": "a", "completion": "b", "label": label}
    assert recognise([row], "x").read(row, "x", "all") == [Half([user("a")], [bot("b")], good)]


def test_a_verdict_between_1_and_2_is_the_answer_that_it_is_nearer_to() -> None:
    """AlpacaEval: how much likelier the second is preferred."""
    row = {"instruction": "a", "output_1": "b", "output_2": "c", "preference": 1.73}
    read = recognise([row], "x").read
    for preference, answer in ((1.73, "c"), ("1.2", "b"), (1.0, "b"), (2.0, "c")):
        (found,) = read(row | {"preference": preference}, "x", "all")
        assert isinstance(found, Pair) and found.chosen[-1] == bot(answer)
    (tie,) = read(row | {"preference": 1.5}, "x", "all")
    assert isinstance(tie, Dropped) and tie.reason == "tied"
    for other in (2.5, 10**400):
        with pytest.raises(UserError, match=r"which names neither answer"):
            read(row | {"preference": other}, "x", "all")


def test_letters_beside_each_other_are_a_verdict() -> None:
    """JudgeBench's A>B, Arena-Hard's A>>B and A=B."""
    row = {"question": "a", "response_A": "b", "response_B": "c", "label": "A>B"}
    read = recognise([row], "x").read
    for label, answer in (("A>B", "b"), ("B>A", "c"), ("B>>A", "c")):
        (found,) = read(row | {"label": label}, "x", "all")
        assert isinstance(found, Pair) and found.chosen[-1] == bot(answer)
    assert isinstance(read(row | {"label": "A=B"}, "x", "all")[0], Dropped)


def test_of_a_dialogue_whose_first_exchange_was_judged_the_first_is_read() -> None:
    """MT-Bench's rows hold both."""
    sides = {f"conversation_{end}": [user("q"), bot(end), user("r"), bot(f"{end} too")] for end in "ab"}
    row = sides | {"winner": "model_b", "turn": 1}
    read = recognise([row], "x").read
    assert read(row, "x", "all") == [Pair([user("q"), bot("b")], [user("q"), bot("a")])]
    assert read(row | {"turn": 2}, "x", "all") == [Pair(sides["conversation_b"], sides["conversation_a"])]
    told = row | {name: [system("s"), *turns] for name, turns in sides.items()}  # which is no exchange
    begin = [system("s"), user("q")]
    assert read(told, "x", "all") == [Pair([*begin, bot("b")], [*begin, bot("a")])]
    assert isinstance(read(row | {"winner": "tie (inconsistent)"}, "x", "all")[0], Dropped)
    with pytest.raises(UserError, match="turn is number 0, expected the number of the exchange that is judged"):
        read(row | {"turn": 0}, "x", "all")
