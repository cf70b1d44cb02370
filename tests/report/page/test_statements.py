"""What the report says follows from intervals, on arithmetic that can be redone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import t

from epsilon_dpo.pipeline.stage.files import read_json, write_json
from epsilon_dpo.report.page.results import read_results
from epsilon_dpo.report.page.statements import agreement, comparisons, statements

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
    would = (
        f"a difference of this size, if it is the true one, would show in 80 % of reports on about {row['n_needed']}"
    )
    assert f"; {would} prompts)." in sentences[-1]


def test_four_prompts_are_no_verdict(outputs: Callable[..., Path], runs: Runs) -> None:
    """4 of 256 prompts differ, all one way: p = 2 / 2^4 = 0.125, and no interval leaves out 0, as a bootstrap did."""
    compared, sentences = said(outputs(truth=False, dpo=[0.0] * 256, mine=[1.0] * 4 + [0.0] * 252), runs)
    assert compared[0]["low"] < 0.0 < compared[0]["high"] and compared[0]["p"] == 0.125
    assert "dpo and mine cannot be told apart" in sentences[-1]


def test_what_the_test_tells_apart_is_said_with_its_size(outputs: Callable[..., Path], runs: Runs) -> None:
    """19 of 20 prompts differ, all one way: p = 2 / 2^19. With two more, one of each way, the mean is 19 / 22 = .8636
    with a standard error of sqrt((21 / 22 - .8636²) / 22) = .0974, 2.093 of which are .2038."""
    compared, sentences = said(outputs(dpo=[0.0] * 20, mine=[1.0] * 19 + [0.0]), runs)
    assert compared[0]["p"] == pytest.approx(2.0 / 2**19)
    assert "mine is ahead of dpo by 95.0 points (66.0 to 100.0)" in sentences[-1]
    assert not any("cannot be told" in sentence for sentence in sentences)


def test_wins_and_losses_against_an_opponent_are_not_mixed_up(outputs: Callable[..., Path]) -> None:
    """Of 20 prompts 20 wins lie above one half, none below it, 10 around it; won over one opponent, lost to the
    other."""
    three = {name: {"method": "dpo"} for name in ("good", "bad", "even")}
    _, sentences = said(outputs(truth=False, good=[1.0] * 20, bad=[0.0] * 20, even=[1.0, 0.0] * 10), three)
    end = "and even cannot be told from it (95 % confidence for all runs together)."
    assert sentences[:2] == [
        f"Against SFT: by the judge, bad won more often than lost, good lost more often than won {end}",
        f"Against the chosen answers: by the judge, good won more often than lost, bad lost more often than won {end}",
    ]


def test_what_is_said_against_an_opponent_holds_for_all_runs_together(outputs: Callable[..., Path]) -> None:
    """15 of 20: P(X >= 15) = .0207, below .025 of one run's low end, above .0083 of each of three."""
    alone = outputs(truth=False, a=twenty(15))
    sentences = said(alone, {"a": {"method": "dpo"}})[1]
    assert sentences[1] == "Against the chosen answers: by the judge, a won more often than lost."
    three = {name: {"method": "dpo"} for name in ("a", "b", "c")}
    _, sentences = said(outputs(truth=False, a=twenty(15), b=twenty(16), c=twenty(5)), three)
    assert sentences[1] == (
        "Against the chosen answers: by the judge, b won more often than lost and a and c cannot be told from it "
        "(95 % confidence for all runs together)."
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
    assert sentences[1] == (
        "Against the chosen answers: by the judge, bad and worse lost more often than won "
        "and the other 16 runs won more often than lost (95 % confidence for all runs together)."
    )
    assert len({(row["first"], row["second"]) for row in compared}) == 153
    assert sentences[-1].startswith("32 of 153 pairs of runs can be told apart")  # each of 2 from each of 16
    assert sentences[-1].endswith("the table below says which.")


def twenty(won: int) -> list[float]:
    return [1.0] * won + [0.0] * (20 - won)


def test_the_truth_is_said_first_and_its_agreement_last(outputs: Callable[..., Path], runs: Runs) -> None:
    _, sentences = said(outputs(dpo=twenty(1), mine=twenty(20)), runs)
    assert [sentence.split(":")[0] for sentence in sentences[:2]] == ["Against SFT", "Against the chosen answers"]
    assert sentences[0].startswith("Against SFT: by the true reward and by the judge, dpo won more often than lost")
    truth, judged = sentences[2:]
    assert truth.startswith(
        "Run against run, by their true wins over the chosen answers (20 answers, 95 % confidence for"
    )
    assert "mine is ahead of dpo by 95.0 points (" in truth and truth.endswith(").")
    assert judged.startswith("Run against run, by their judged wins over the chosen answers")
    assert judged.endswith("). The true reward says the same.")


def test_what_the_judge_alone_tells_apart_is_no_headline(outputs: Callable[..., Path], runs: Runs) -> None:
    """The default of old: ahead by the judge, while the truth cannot tell the two apart."""
    out = outputs(dpo=twenty(1), mine=twenty(20), true={"dpo": twenty(10), "mine": twenty(11)})
    _, sentences = said(out, runs)
    assert sentences[1] == (
        "Against the chosen answers: by the true reward, both runs cannot be told from it; by the judge, mine won more "
        "often than lost and dpo lost more often than won (95 % confidence for all runs together)."
    )
    truth, judged = sentences[2:]
    assert truth.startswith("dpo and mine cannot be told apart by their true wins")
    assert "mine is ahead of dpo by 95.0 points (" in judged
    assert judged.endswith(" The true reward does not confirm that for dpo and mine: it cannot tell them apart.")


def test_what_the_judge_turns_round_or_misses_is_said(outputs: Callable[..., Path], runs: Runs) -> None:
    _, sentences = said(outputs(dpo=twenty(1), mine=twenty(20), true={"dpo": twenty(20), "mine": twenty(1)}), runs)
    assert "dpo is ahead of mine by 95.0 points" in sentences[-2] and "mine is ahead of dpo" in sentences[-1]
    assert sentences[-1].endswith(" The true reward says the opposite of dpo and mine.")
    _, sentences = said(outputs(dpo=twenty(10), mine=twenty(11), true={"dpo": twenty(20), "mine": twenty(1)}), runs)
    assert "dpo is ahead of mine" in sentences[-2] and "dpo and mine cannot be told apart" in sentences[-1]
    assert sentences[-1].endswith(" The judge misses what the true reward says of dpo and mine.")


def test_where_neither_separates_anything_both_say_so(outputs: Callable[..., Path]) -> None:
    """By the judge b and c differ on two of 20 prompts, all one way, a and each of them on one. At a third of the level
    a difference of 2.394 + .842 standard errors is seen in four of five samples: for b and c that takes (3.236 / .1)²
    (1.8 / 19) = 99.2 prompts, for the others (3.236 / .05)² (.95 / 19) = 209.4."""
    three = {name: {"method": "dpo"} for name in ("a", "b", "c")}
    out = outputs(a=twenty(10), b=twenty(11), c=twenty(9), true={"a": twenty(9)})
    *_, truth, judged = said(out, three)[1]
    for sentence, wins in ((truth, "true"), (judged, "judged")):
        assert sentence.startswith(f"No two of the 3 runs can be told apart by their {wins} wins")
        clearest = (
            "; the clearest of these differences, if it is the true one, would show in 80 % of reports on about 100"
        )
        assert f"{clearest} prompts)." in sentence
    assert judged.endswith("). The true reward says the same.") and "ahead" not in truth + judged


@pytest.mark.parametrize(("there", "advised"), [(99, True), (100, False)])
def test_more_prompts_than_the_data_have_are_no_advice(outputs: Callable[..., Path], there: int, advised: bool) -> None:
    out = outputs(a=twenty(10), b=twenty(11), c=twenty(9), true={"a": twenty(9)})
    dataset = read_json(out / "validate/dataset.json")
    write_json(out / "validate/dataset.json", dataset | {"prompts": {"train": there - 20, "eval": 20}})
    *_, truth, _ = said(out, {name: {"method": "dpo"} for name in ("a", "b", "c")})[1]
    assert (f"about 100 prompts, and the data have {there}: raise sample.samples_per_prompt" in truth) == advised


def test_several_kinds_of_disagreement_in_one_go() -> None:
    def row(first: str, second: str, outcome: str) -> dict[str, str]:
        return {"first": first, "second": second, "outcome": outcome}

    apart = "cannot be told apart"
    truth = [row("a", "b", "better"), row("a", "c", apart), row("b", "c", "worse"), row("c", "d", "better")]
    judged = [row("a", "b", "worse"), row("a", "c", "better"), row("b", "c", "worse"), row("c", "d", apart)]
    assert agreement(truth, judged) == (
        "The true reward says the opposite of a and b. The true reward does not confirm that for a and c: it cannot "
        "tell them apart. The judge misses what the true reward says of c and d."
    )
    many = [row("a", str(number), "better") for number in range(4)]
    none = [one | {"outcome": apart} for one in many]
    assert agreement(none, many).startswith("The true reward does not confirm that for 4 pairs:")


def test_an_interval_for_all_pairs_together_is_one(outputs: Callable[..., Path]) -> None:
    """Its level is a third of the lone pair's: t of 1 - .05 / 6 and 21 prompts, two of them imaginary, by hand."""
    three = {name: {"method": "dpo"} for name in ("a", "b", "c")}
    compared, sentences = said(outputs(truth=False, a=twenty(20), b=twenty(4), c=twenty(12)), three)
    row = next(row for row in compared if (row["first"], row["second"], row["opponent"]) == ("a", "b", "chosen"))
    mean = 16 / 22
    half_width = t.ppf(1.0 - 0.05 / 6, 19) * ((18 / 22 - mean**2) / 22) ** 0.5
    assert row["low_together"] == pytest.approx(mean - half_width) and row["high_together"] == 1.0
    assert (
        row["low_together"] < row["low"]
        and f"a is ahead of b by 80.0 points ({100 * row['low_together']:.1f} to 100.0)" in sentences[-1]
    )
    for row in compared:
        assert (row["outcome"] == "cannot be told apart") == (row["low_together"] <= 0.0 <= row["high_together"])


def test_the_interval_reaches_to_0_where_the_exact_test_decides_nothing(outputs: Callable[..., Path]) -> None:
    """b and c are one run twice: two of three pairs are the same one, but the correction cannot know."""
    wins = {"a": [1.0] * 7 + [0.0] * 33, "b": [0.0] * 7 + [1.0] + [0.0] * 32}
    wins["c"] = wins["b"]
    compared, sentences = said(outputs(truth=False, **wins), {name: {"method": "dpo"} for name in wins})
    assert all(row["low_together"] <= 0.0 <= row["high_together"] and row["p_holm"] > 0.05 for row in compared)
    assert sentences[-1].startswith("No two of the 3 runs can be told apart")
