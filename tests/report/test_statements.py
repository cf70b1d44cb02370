"""What the report says in words follows from intervals, on arithmetic that can be redone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.report.results import read_results
from epsilon_dpo.report.statements import comparisons, statements

Runs = dict[str, dict[str, Any]]


def said(out: Path, runs: Runs) -> tuple[list[dict], list[str]]:
    results = read_results(out, runs)
    compared = comparisons(results)
    return compared, statements(results, compared)


def test_the_difference_is_paired(outputs: Callable[..., Path], runs: Runs) -> None:
    """Differences 0, 1, 1, 0: mean 1/2, standard deviation sqrt(1/3), standard error 0.28868, 1.96 of which 0.5658."""
    compared, sentences = said(outputs(truth=False, dpo=[1.0, 0.0, 0.0, 0.0], mine=[1.0, 1.0, 1.0, 0.0]), runs)
    assert [(row["opponent"], row["scorer"]) for row in compared] == [("chosen", "judge"), ("sft", "judge")]
    assert compared[0]["difference"] == -0.5
    assert compared[0]["low"] == pytest.approx(-1.0658, abs=1e-4)
    assert compared[0]["high"] == pytest.approx(0.0658, abs=1e-4)
    assert sentences[-1].startswith(
        "dpo and mine cannot be told apart by their judged wins over the chosen answers (4 prompts"
    )


def test_a_difference_outside_its_interval_is_said_with_its_size(outputs: Callable[..., Path], runs: Runs) -> None:
    """19 of 20 differences are 1, one is 0: 0.95 ± 1.96 · sqrt(0.05) / sqrt(20) = 0.95 ± 0.098."""
    _, sentences = said(outputs(dpo=[0.0] * 20, mine=[1.0] * 19 + [0.0]), runs)
    assert "mine is ahead of dpo by 95.0 points (85.2 to 104.8)" in sentences[-1]
    assert not any("cannot be told" in sentence for sentence in sentences)


def test_wins_and_losses_against_an_opponent_are_not_mixed_up(outputs: Callable[..., Path]) -> None:
    """Wilson at n = 20: 20 wins lie above one half, none below it, 10 around it."""
    three = {name: {"method": "dpo"} for name in ("good", "bad", "even")}
    _, sentences = said(outputs(truth=False, good=[1.0] * 20, bad=[0.0] * 20, even=[1.0, 0.0] * 10), three)
    assert sentences[0] == (
        "Against SFT: by the judge, good won more often than lost, bad lost more often than won "
        "and even cannot be told from it."
    )


def test_runs_that_nobody_can_tell_apart_are_said_at_once(outputs: Callable[..., Path]) -> None:
    three = {name: {"method": "dpo"} for name in ("a", "b", "c")}
    _, sentences = said(outputs(a=[1.0, 0.0] * 5, b=[0.0, 1.0] * 5, c=[0.5] * 10), three)
    assert sentences[-1].startswith("No two of the 3 runs can be told apart")


def test_many_pairs_are_counted(outputs: Callable[..., Path]) -> None:
    """One run that always wins among four: 3 of 6 pairs."""
    wins = {name: [0.5] * 20 for name in ("b", "c", "d")} | {"a": [1.0] * 19 + [0.0]}
    _, sentences = said(outputs(**wins), {name: {"method": "dpo"} for name in wins})
    assert sentences[-1].startswith("3 of 6 pairs of runs can be told apart")


def test_of_many_runs_the_largest_group_is_counted_and_chance_is_said(outputs: Callable[..., Path]) -> None:
    """18 runs: 153 pairs, 5 % of which are 7.65; two runs lose, sixteen win."""
    good = {f"good_{number}": [1.0] * 19 + [number % 2] for number in range(16)}
    wins = {"bad": [0.0] * 20, **good, "worse": [0.0] * 20}
    compared, sentences = said(outputs(truth=False, **wins), {name: {"method": "dpo"} for name in wins})
    assert sentences[0] == (
        "Against SFT: by the judge, bad and worse lost more often than won "
        "and the other 16 runs won more often than lost."
    )
    assert len({(row["first"], row["second"]) for row in compared}) == 153
    assert sentences[-1].startswith("32 of 153 pairs of runs can be told apart")  # each of 2 from each of 16
    assert "(about 8 would be, by chance, if all runs were alike); the table below says which." in sentences[-1]
