"""Published rows with a column for each answer, and one for each score, outcome or a ranking of them."""

from typing import Any

import pytest
from shape_rows import EXAMPLES, Row, bot, pair, user

from epsilon_dpo.data.shapes.interface import Dropped, Pair, Result
from epsilon_dpo.data.shapes.recognition import recognise
from epsilon_dpo.pipeline.observability.errors import UserError

LMSYS, WEBGPT, KO = (EXAMPLES[name].rows[0] for name in ("winner_columns", "scored_columns", "ranked_columns"))
PLAIN = LMSYS | {"prompt": "a", "response_a": "b", "response_b": "c"}
LISTS = LMSYS | {"prompt": ["a", "A?"], "response_a": ["b", "B"], "response_b": ["c", "C"]}
SCORED = {"prompt": "a", "response_0": "b", "response_1": "c", "score_0": 1, "score_1": 3}
OF_KO = {"prompt": "prompt", **{f"response_{n}": f"completion_{n}" for n in range(3)}}


def results(row: Row, columns: dict[str, str] | None = None, first: Row | None = None) -> list[Result]:
    return recognise([first or row], "x", columns).read(row, "x, row 1", "best_worst")


def read(row: Row, columns: dict[str, str] | None = None) -> Pair:
    (found,) = results(row, columns)
    assert isinstance(found, Pair), found
    return found


def said(pair: Pair) -> tuple[str, str]:
    return pair.chosen[-1]["content"], pair.rejected[-1]["content"]


@pytest.mark.parametrize("row", [LMSYS | {"response_b": '["c","C"]'}, LISTS])
def test_lists_of_texts_are_the_turns_of_a_dialogue(row: Row) -> None:
    expected = pair(user("a"), bot("b"), user("A?"), good="B", bad="C")
    found = read(row)
    assert found.chosen == expected["chosen"] and found.rejected[1] == bot("c")


def test_a_text_is_one_turn_also_where_it_looks_like_a_list() -> None:
    assert read(PLAIN) == Pair([user("a"), bot("b")], [user("a"), bot("c")])
    (found,) = results(PLAIN | {"response_a": '["b"]'})
    assert said(found) == ('["b"]', "c")  # type: ignore[arg-type]
    (found,) = results(PLAIN | {"prompt": '["Sort it"]'}, first=PLAIN)
    assert found.chosen[0] == user('["Sort it"]')  # type: ignore[union-attr]


def test_an_odd_prompt_among_the_first_does_not_make_texts_of_the_lists() -> None:
    empty, cut_off, plain = (LMSYS | {"prompt": prompt} for prompt in ("[]", '["a', "a"))
    reading = recognise([empty, cut_off, plain, *[LMSYS] * 4], "x")
    assert reading.read(LMSYS, "x, row 4", "all") == results(LMSYS)
    (found,) = reading.read(empty, "x, row 1", "all")
    assert isinstance(found, Dropped) and found.reason == "null"
    for row in (cut_off, plain):
        with pytest.raises(UserError, match=r"x, row 2: prompt is text '.*a', expected a list of texts, one an exch"):
            reading.read(row, "x, row 2", "all")


def test_an_odd_list_among_the_first_does_not_make_lists_of_the_texts() -> None:
    (found,) = recognise([LMSYS, *[PLAIN] * 2], "x").read(PLAIN, "x, row 2", "all")
    assert said(found) == ("b", "c")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"winner_tie": 1}, "winner_model_a, winner_model_b, winner_tie are [True, False, True], expected that one"),
        ({"winner_model_a": 0}, "are [False, False, False], expected that one of them is true"),
        ({"winner_model_a": "0.33"}, "winner_model_a is text '0.33', expected true or false"),
        ({"response_b": "c"}, "response_b is text 'c', expected a list of texts, one an exchange"),
        ({"response_b": '["c"]'}, "response_b holds 1 texts, expected 2, one for each of prompt"),
        ({"prompt": "a"}, "prompt is text 'a', expected a list of texts"),
    ],
)
def test_what_no_single_outcome_or_dialogue_follows_from_is_refused(change: Row, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        results(LMSYS | change, first=LMSYS)
    assert sentence in str(error.value)


def test_a_turn_without_text_drops_the_row() -> None:
    for change in ({"response_a": '["b",null]'}, {"response_b": "[null,null]"}, {"prompt": "[]"}):
        (found,) = results(LMSYS | change, first=LMSYS)
        assert isinstance(found, Dropped) and found.reason == "null"


def test_webgpts_question_is_its_text_and_its_quotes_are_not_read() -> None:
    assert read(WEBGPT) == Pair([user("a"), bot("b [1]")], [user("a"), bot("c")], 1.0, "0-1")
    with pytest.raises(UserError, match=r"prompt has the keys id, expected full_text \(column question\)"):
        results(WEBGPT | {"question": {"id": "5gdg4b"}}, first=WEBGPT)


def test_scores_in_columns_order_as_many_answers_as_there_are() -> None:
    three = SCORED | {"response_2": "d", "score_2": 2}
    reading = recognise([three], "x")
    found = reading.read(three, "x, row 1", "all")
    assert [(one.answers, one.margin) for one in found if isinstance(one, Pair)] == [("1-2", 1), ("1-0", 2), ("2-0", 1)]
    for nothing in (None, ""):
        (one,) = reading.read(three | {"response_2": nothing, "score_2": nothing}, "x", "all")
        assert said(one) == ("c", "b")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="response_2 has no score"):
        reading.read(three | {"score_2": None}, "x", "all")
    (dropped,) = reading.read(three | {"score_1": None}, "x", "all")
    assert isinstance(dropped, Dropped) and dropped.reason == "null"


def test_a_verdict_beside_scores_decides() -> None:
    assert said(read(SCORED | {"better_response_id": 0})) == ("b", "c")


def test_a_verdict_beside_a_column_per_outcome_is_asked_about() -> None:
    """Such columns may be what a model foretold."""
    row = PLAIN | {"winner": "model_b", "winner_model_a": 0.7, "winner_model_b": 0.2, "winner_tie": 0.1}
    with pytest.raises(UserError, match=r"several shapes .*; say which to read with fetch.columns"):
        read(row)
    asked = {name: name for name in ("prompt", "response_a", "response_b", "winner")}
    assert said(read(row, asked)) == ("c", "b")


@pytest.mark.parametrize("beside", [{"label": None}, {"preference": None}, {"responses": 2}])
def test_a_column_that_is_no_verdict_and_no_list_changes_nothing(beside: Row) -> None:
    assert said(read(LMSYS | beside)) == ("B", "C")
    scored = {key: value for key, value in beside.items() if key == "responses"}
    assert said(read(SCORED | scored)) == ("c", "b")


def test_a_list_of_answers_beside_a_column_each_is_asked_about() -> None:
    with pytest.raises(UserError, match=r"several shapes .*; say which to read with fetch.columns"):
        read({**SCORED, "answers": ["d", "e"], "scores": [1, 2]})


def test_more_numbered_answers_than_are_read_are_refused() -> None:
    sentence = r"no shape of preference data .*response_16 is an answer too many: 16 are read in a column each, and any"
    answers = {f"response_{n}": "b" for n in range(17)}
    scores = {f"score_{n}": n for n in range(17)}
    with pytest.raises(UserError, match=sentence) as error:
        recognise([{"prompt": "a", **answers, **scores}], "x")
    assert "two_answers" not in str(error.value)
    answers.pop("response_0")
    with pytest.raises(UserError, match="no shape of preference data") as error:
        recognise([{"prompt": "a", **answers}], "x")
    assert "too many" not in str(error.value), "they are counted from 1"
    listed = {"prompt": "a", "answers": [{"text": str(n), "score": n} for n in range(17)]}
    assert said(read(listed)) == ("16", "0")


@pytest.mark.parametrize(("name", "chosen", "rejected"), [("order", "c", "b"), ("ranks", "d", "c")])
def test_a_ranking_is_an_order_or_ranks(name: str, chosen: str, rejected: str) -> None:
    row = KO | {"ranking": [1, 2, 0]}
    assert said(read(row, OF_KO | {name: "ranking"})) == (chosen, rejected)
    assert said(read(KO, OF_KO | {name: "ranking"})) == said(read(KO)) == ("d", "b")
    assert said(read({**{key: row[key] for key in OF_KO.values()}, name: row["ranking"]})) == (chosen, rejected)


@pytest.mark.parametrize(
    ("columns", "ranking", "sentence"),
    [
        (None, [1, 2, 0], "which may be the answers' numbers, best first, or the rank of each"),
        (None, [2, 3, 1], "which may be the answers' numbers, best first, or the rank of each"),
        (None, [2, 1, 1], "which does not name each answer by its number: say with fetch.columns if it is the rank of"),
        (None, [0.5, 1.5, 2.5], "which does not name each answer by its number"),
        ("order", [2, 2, 1], "expected each answer's number from 0 or from 1 on, once"),
        ("order", [2, 3, 4], "expected each answer's number from 0 or from 1 on, once"),
        ("order", [1, 0], "response_2 has no rank (column completion_2)"),
    ],
)
def test_a_ranking_that_says_no_order_is_refused(columns: Any, ranking: list[int], sentence: str) -> None:
    mapped = columns and OF_KO | {columns: "ranking"}
    with pytest.raises(UserError) as error:
        results(KO | {"ranking": ranking}, mapped)
    assert sentence in str(error.value)
    if mapped is None:
        for name in ("order", "ranks"):
            written = ", ".join(f"{ours}: {theirs}" for ours, theirs in {**OF_KO, name: "ranking"}.items())
            if name == "ranks" or "the answers' numbers" in sentence:
                assert f"{{{written}}}" in str(error.value)
                results(KO | {"ranking": ranking}, OF_KO | {name: "ranking"})
            else:
                assert f"{name}: ranking" not in str(error.value)


@pytest.mark.parametrize(("ranking", "chosen", "rejected"), [([1, 2, 3], "b", "d"), ([2, 1, 3], "c", "d")])
def test_a_ranking_from_1_on_is_an_order_as_from_0(ranking: list[int], chosen: str, rejected: str) -> None:
    row = KO | {"ranking": ranking}
    assert said(read(row)) == said(read(row, OF_KO | {"ranks": "ranking"})) == (chosen, rejected)
    assert said(read(row, OF_KO | {"order": "ranking"})) == (chosen, rejected)
    assert said(read(KO | {"ranking": [2, 3, 1]}, OF_KO | {"order": "ranking"})) == ("c", "b")


def test_equal_ranks_tie() -> None:
    (found,) = results(KO | {"ranking": [1, 1, 1]}, OF_KO | {"ranks": "ranking"})
    assert isinstance(found, Dropped) and found.reason == "tied"
