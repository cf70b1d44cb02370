"""The parts of an alt text, by hand."""

from epsilon_dpo.report.style.alt_text import LIMIT, against_half, counted, ends, fitting, movement, span
from epsilon_dpo.report.style.signs import percent


def test_the_fullest_text_that_is_short_enough() -> None:
    assert fitting("x" * LIMIT, "short") == "x" * LIMIT
    assert fitting("x" * (LIMIT + 1), "short", "shorter") == "short"
    assert fitting("x" * (LIMIT + 2), "x" * (LIMIT + 1)) == "x" * (LIMIT + 1)


def test_the_lowest_and_the_highest() -> None:
    assert span({"b": 0.521, "a": 0.475, "c": 0.5}, percent) == "47.5 % (a) to 52.1 % (b)"
    assert span({"a": 0.5}, percent) == "50.0 % (a)"
    assert span({"a": 0.50001, "b": 0.50002}, percent) == "50.0 % (all 2)"
    assert ends([3.0, 1.0, 2.0], str) == "1.0 to 3.0" and ends([1.0], str) == "1.0"


def test_how_many_and_which_way() -> None:
    assert [counted(x) for x in ([True] * 3, [True, False], [False] * 2, [True])] == [
        "all 3",
        "1 of 2",
        "none of 2",
        "1 of 1",
    ]
    assert movement([[1, 9, 2], [3, 0, 4]]) == "up in all 2"
    assert movement([[1, 2], [4, 3]]) == "up in 1 of 2"
    assert movement([[2, 1], [4, 3]]) == "down in all 2"
    assert movement([[2, 2], [4, 3]]) == "up in none of 2"


def test_an_interval_that_ends_at_one_half_does_not_exclude_it() -> None:
    assert against_half([(0.5, 0.7), (0.2, 0.5)]) == "no interval excludes 50 %"
    assert against_half([(0.51, 0.7), (0.6, 0.8)]) == "intervals above 50 %: all 2"
    assert against_half([(0.51, 0.7), (0.2, 0.4), (0.4, 0.6)]) == "intervals above 50 %: 1 of 3, below 50 %: 1 of 3"
