"""What the report says follows from intervals, on arithmetic that can be redone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.report.page.results import read_results
from epsilon_dpo.report.page.statements import comparisons, statements

Runs = dict[str, dict[str, Any]]


def said(out: Path, runs: Runs) -> tuple[list[dict], list[str]]:
    results = read_results(out, runs)
    compared = comparisons(results)
    return compared, statements(results, compared)


def test_the_difference_is_paired_and_tested_exactly(outputs: Callable[..., Path], runs: Runs) -> None:
    """Differences 0, -1, -1, 0: two discordant prompts, p = 2 / 2^2."""
    compared, sentences = said(outputs(truth=False, dpo=[1.0, 0.0, 0.0, 0.0], mine=[1.0, 1.0, 1.0, 0.0]), runs)
    assert [(row["opponent"], row["scorer"]) for row in compared] == [("chosen", "judge"), ("sft", "judge")]
    row = compared[0]
    assert (row["difference"], row["p"], row["p_holm"], row["n"]) == (-0.5, 0.5, 0.5, 4)
    assert row["outcome"] == "cannot be told apart" and row["low"] < -0.5 < row["high"]
    assert sentences[-1].startswith(
        "dpo and mine cannot be told apart by their judged wins over the chosen answers (4 answers"
    )
    assert f"a difference of this size would take about {row['n_needed']} prompts" in sentences[-1]


def test_a_difference_outside_its_interval_is_not_yet_a_verdict(outputs: Callable[..., Path], runs: Runs) -> None:
    """4 of 256 prompts differ, all one way: their interval leaves out zero, but p = 2 / 2^4 = 0.125."""
    compared, sentences = said(outputs(truth=False, dpo=[0.0] * 256, mine=[1.0] * 4 + [0.0] * 252), runs)
    assert compared[0]["high"] < 0.0 and compared[0]["p"] == 0.125
    assert "dpo and mine cannot be told apart" in sentences[-1]


def test_what_the_test_tells_apart_is_said_with_its_size(outputs: Callable[..., Path], runs: Runs) -> None:
    """19 of 20 prompts differ, all one way: p = 2 / 2^19."""
    compared, sentences = said(outputs(dpo=[0.0] * 20, mine=[1.0] * 19 + [0.0]), runs)
    assert compared[0]["p"] == pytest.approx(2.0 / 2**19)
    assert "mine is ahead of dpo by 95.0 points (" in sentences[-1]
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


def test_of_many_runs_the_largest_group_is_counted(outputs: Callable[..., Path]) -> None:
    """18 runs: 153 pairs; two runs lose, sixteen win."""
    good = {f"good_{number}": [1.0] * 19 + [number % 2] for number in range(16)}
    wins = {"bad": [0.0] * 20, **good, "worse": [0.0] * 20}
    compared, sentences = said(outputs(truth=False, **wins), {name: {"method": "dpo"} for name in wins})
    assert sentences[0] == (
        "Against SFT: by the judge, bad and worse lost more often than won "
        "and the other 16 runs won more often than lost."
    )
    assert len({(row["first"], row["second"]) for row in compared}) == 153
    assert sentences[-1].startswith("32 of 153 pairs of runs can be told apart")  # each of 2 from each of 16
    assert sentences[-1].endswith("the table below says which.")
