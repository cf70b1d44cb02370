"""Runs that differ in their seed alone are one method, and only methods of several seeds are compared as methods."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import sem, t

from epsilon_dpo.analysis.intervals.rates import per_prompt
from epsilon_dpo.pipeline.stage.files import read_jsonl, write_jsonl
from epsilon_dpo.report.page.groups import balanced, group_rates, groups
from epsilon_dpo.report.page.methods import method_comparisons, method_statements
from epsilon_dpo.report.page.page import write_report
from epsilon_dpo.report.page.results import Results, read_results

Runs = dict[str, dict[str, Any]]
DPO = {"method": "dpo", "beta": 0.1}
IPO = {"method": "ipo", "tau": 0.1}
TWO_EACH: Runs = {"dpo": DPO, "ipo": IPO, "dpo_18": DPO | {"seed": 18}, "ipo_18": IPO | {"seed": 18}}


def said(results: Results) -> list[str]:
    return method_statements(results, method_comparisons(results))


def test_what_makes_another_training_but_not_another_method(outputs: Callable[..., Path]) -> None:
    runs = {
        "a": DPO,
        "b": DPO | {"beta": 0.2},
        "c": DPO | {"seed": 18, "learning_rate": None},
        "d": {"snapshot_epochs": 0.5, "beta": 0.1, "seed": 19, "method": "dpo"},
        "e": DPO | {"learning_rate": 0.1},
        "g": DPO | {"beta": 1},
        "h": DPO | {"beta": 1.0, "seed": 18},
    }
    found = groups(read_results(outputs(**{name: [1.0, 0.0] for name in runs}), runs).runs)
    assert [[run.name for run in group.runs] for group in found] == [["a", "c", "d"], ["b"], ["e"], ["g", "h"]]
    assert [group.label for group in found] == ["a, 3 seeds", "b", "e", "g, 2 seeds"]


def test_the_mean_over_seeds_has_an_interval_over_seeds_and_prompts(outputs: Callable[..., Path]) -> None:
    """Three seeds that win 12, 10 and 8 of 20 prompts, each a part of the one before: by hand from mean squares.

    Seeds: means .6, .5, .4, so 20 (.02) / 2 = .2. Prompts: means 1 (eight), 2/3 (two), 1/3 (two), 0 (eight), so
    3 (16/4 + 4/36) / 19 = .6491. All wins about 1/2: 60/4 = 15, of which .4 and 12.3333 are these two's: 2.2667 / 38 =
    .05965 is the interaction's. Training is (.2 - .05965) / 60 of the variance, on two degrees of freedom, the rest
    .6491 / 60.
    """
    runs = {"dpo": DPO, "dpo_18": DPO | {"seed": 18}, "dpo_19": DPO | {"seed": 19}}
    wins = {name: [1.0] * won + [0.0] * (20 - won) for name, won in zip(runs, (12, 10, 8), strict=True)}
    (row,) = group_rates(read_results(outputs(truth=False, **wins), runs))
    prompts = 3 * (16 / 4 + 4 / 36)
    interaction = (15 - 0.4 - prompts) / 38
    half_width = (t.ppf(0.975, 2) ** 2 * (0.2 - interaction) / 60 + t.ppf(0.975, 19) ** 2 * prompts / 19 / 60) ** 0.5
    assert row["win_rate/chosen"] == 0.5 and (row["seeds"], row["runs"]) == (3, "dpo dpo_18 dpo_19")
    assert row["win_rate/chosen_low"] == pytest.approx(0.5 - half_width)
    assert row["win_rate/chosen_high"] == pytest.approx(0.5 + half_width)
    assert "true_win_rate/chosen" not in row


def test_an_interval_of_rates_ends_at_0_and_1(outputs: Callable[..., Path]) -> None:
    runs = {"dpo": DPO, "dpo_18": DPO | {"seed": 18}}
    (row,) = group_rates(read_results(outputs(dpo=[1.0, 1.0], dpo_18=[0.0, 0.0]), runs))
    assert (row["win_rate/chosen_low"], row["win_rate/chosen_high"]) == (0.0, 1.0)


def test_seeds_that_win_everything_are_no_surer_than_one_of_them(outputs: Callable[..., Path]) -> None:
    """All of 30 prompts won: .025^(1/30) to 1, as a run of one seed has it."""
    runs = {"dpo": DPO, "dpo_18": DPO | {"seed": 18}, "dpo_19": DPO | {"seed": 19}}
    (row,) = group_rates(read_results(outputs(**{name: [1.0] * 30 for name in runs}), runs))
    assert row["win_rate/chosen_low"] == pytest.approx(0.025 ** (1 / 30))
    assert (row["win_rate/chosen"], row["true_win_rate/chosen_high"]) == (1.0, 1.0)


def test_each_order_counts_by_itself(outputs: Callable[..., Path]) -> None:
    """Won in both orders, in the first alone, in none, and tied: 1, 1/2, 0, 1/2."""
    out = outputs(dpo=[1.0, 1.0, 0.0, 0.5])
    orders = [(1.0, -2.0), (3.0, 1.0), (-1.0, 0.5), (0.0, 0.0)] * 2
    file = out / "score/dpo/records.jsonl"
    write_jsonl(file, [r | {"f_ab": ab, "f_ba": ba} for r, (ab, ba) in zip(read_jsonl(file), orders, strict=True)])
    (group,) = groups(read_results(out, {"dpo": DPO}).runs)
    assert group.judgements("chosen")[0, :, 0].tolist() == [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.5, 0.5]]


def test_answers_are_told_from_prompts_where_every_prompt_has_as_many(outputs: Callable[..., Path]) -> None:
    """Two answers to each of two prompts; then a third one to the second prompt."""

    def wins(prompts: list[str], values: list[float]) -> np.ndarray:
        out = outputs(dpo=values)
        file = out / "score/dpo/records.jsonl"
        write_jsonl(file, [r | {"prompt_id": p} for r, p in zip(read_jsonl(file), prompts * 2, strict=True)])
        (group,) = groups(read_results(out, {"dpo": DPO}).runs)
        return group.wins("chosen", "win")

    assert wins(list("aabb"), [1.0, 0.0, 0.5, 1.0]).tolist() == [[[1.0, 0.0], [0.5, 1.0]]]
    uneven = wins(list("aabbb"), [1.0, 0.0, 0.0, 1.0, 1.0])
    assert uneven.shape == (1, 2, 1) and uneven.mean() == pytest.approx(3 / 5)  # as the run's own win rate


def test_answers_are_told_from_prompts_where_rows_share_some() -> None:
    """Two answers to each of four rows, two of which have one prompt: 4/3 rows a prompt, and a mean of 1/2."""
    one, shared, other = [[1.0], [0.0]], [[1.0], [0.5], [0.0], [0.5]], [[0.0], [1.0]]
    found = balanced([np.array(answers) for answers in (one, shared, other)])
    by_hand = [[0.75 + 0.125, 0.125], [0.75 - 0.25, 0.75 - 0.25], [0.125, 0.75 + 0.125]]
    assert found[..., 0].tolist() == [pytest.approx(row) for row in by_hand] and found.mean() == pytest.approx(0.5)
    assert found.mean(1).ravel().tolist() == pytest.approx(per_prompt([0.5] * 4, [0, 1, 1, 2]))
    even = np.random.default_rng(0).random((3, 2, 2))
    assert np.array_equal(balanced(list(even)), even)


def test_the_rate_of_several_seeds_is_the_mean_of_theirs(outputs: Callable[..., Path]) -> None:
    """Half of the answers are to one prompt, which several rows of the data share."""
    runs = {"dpo": DPO, "dpo_18": DPO | {"seed": 18}}
    wins = {"dpo": [1.0] * 20 + [0.0, 1.0] * 10, "dpo_18": [1.0] * 20 + [0.0, 0.0, 1.0, 0.0] * 5}
    out = outputs(truth=False, **wins)
    for run in runs:
        file = out / "score" / run / "records.jsonl"
        prompts = (["shared"] * 20 + [f"p{i}" for i in range(20)]) * 2
        write_jsonl(file, [r | {"prompt_id": p} for r, p in zip(read_jsonl(file), prompts, strict=True)])
    (row,) = group_rates(read_results(out, runs))
    assert row["win_rate/chosen"] == pytest.approx((0.75 + 0.625) / 2)


def test_one_training_each_compares_policies(outputs: Callable[..., Path]) -> None:
    out = outputs(dpo=[1.0, 0.0], ipo=[0.0, 1.0])
    (sentence,) = said(read_results(out, {"dpo": DPO, "ipo": IPO}))
    assert sentence.startswith("Every run is one training, so these sentences compare policies and not methods")


def test_one_method_alone_is_compared_with_nothing(outputs: Callable[..., Path]) -> None:
    runs = {"dpo": DPO, "dpo_18": DPO | {"seed": 18}}
    assert said(read_results(outputs(**{name: [1.0, 0.0] for name in runs}), runs)) == []
    out = outputs(**{name: [1.0, 0.0] for name in (*runs, "ipo")})
    (sentence,) = said(read_results(out, runs | {"ipo": IPO}))
    assert sentence.startswith("Only dpo, 2 seeds, is more than one training")


def test_methods_are_told_apart_where_all_their_seeds_differ(outputs: Callable[..., Path]) -> None:
    """Both seeds of one win 55 of 60 prompts, both of the other 15: training adds nothing, prompts a little."""
    many, few = [1.0] * 55 + [0.0] * 5, [1.0] * 15 + [0.0] * 45
    results = read_results(outputs(dpo=many, dpo_18=many, ipo=few, ipo_18=few), TWO_EACH)
    row = method_comparisons(results)[0]
    assert (row["first"], row["second"], row["seeds_first"], row["n"]) == ("dpo", "ipo", 2, 60)
    apart = [0.0] * 20 + [1.0] * 40 + [1.0, -1.0]  # the last two imaginary
    half_width = t.ppf(0.975, 59) * sem(apart, ddof=0)
    assert (row["low"], row["high"]) == pytest.approx((40 / 62 - half_width, 40 / 62 + half_width))
    assert row["outcome"] == "better" and row["training_share"] == 0.0
    truth, sentence = said(results)
    assert truth.startswith("Method against method, by their true wins over the chosen answers (2 seeds of dpo, ")
    assert "dpo is ahead of ipo by 66.7 points" in truth and sentence.endswith(" The true reward says the same.")
    assert sentence.startswith("Method against method, by their judged wins over the chosen answers (2 seeds of dpo, ")
    assert "dpo is ahead of ipo by 66.7 points" in sentence


def test_methods_whose_seeds_disagree_are_not(outputs: Callable[..., Path]) -> None:
    """The same difference of means, but one seed of each wins where the other loses."""
    many, few = [1.0] * 55 + [0.0] * 5, [1.0] * 15 + [0.0] * 45
    results = read_results(outputs(dpo=many, dpo_18=few, ipo=few, ipo_18=[0.0] * 60), TWO_EACH)
    assert {row["outcome"] for row in method_comparisons(results)} == {"cannot be told apart"}
    truth, sentence = said(results)
    assert truth.startswith("No two methods can be told apart by their true wins") and "says the same" in sentence
    assert sentence.startswith("No two methods can be told apart") and "more seeds would do most" in sentence


def test_the_page_shows_methods_and_what_they_rest_on(outputs: Callable[..., Path], tmp_path: Path) -> None:
    """Both seeds of dpo win three of four prompts by the judge and one by the truth; ipo's win three and two by both.

    Of four rates, three 1 and one 0 or the other way round, the variance is (3/16 + 9/16) / 3 = 1/4, the standard error
    of their mean 1/4: both seeds win the same prompts.
    """
    wins = {name: [1.0, 0.0, 1.0, 1.0] for name in TWO_EACH} | {"ipo_18": [1.0, 1.0, 0.0, 0.0]}
    true = {name: [1.0, 0.0, 0.0, 0.0] for name in ("dpo", "dpo_18")}
    to = tmp_path / "report"
    to.mkdir()
    write_report(read_results(outputs(true=true, **wins), TWO_EACH), 0, to)
    page = " ".join((to / "report.html").read_text("utf-8").split())
    section = page.split(">Over several seeds</a></h2>")[1].split("<h2 ")[0]
    assert '<th scope="row">dpo<small>dpo dpo_18</small></th>' in section and "1 pair of methods" in section
    row = section.split("<small>dpo dpo_18</small></th>")[1].split("</tr>")[0]
    rates = ["75.0", "25.0", "25.0", "75.0"]
    assert re.findall(r"([\d.]+) %<small>", row) == rates, "over chosen and SFT, by judge and truth"
    parts = section.split('<th scope="row">dpo, 2 seeds</th>')[1:]
    means = [re.match(r'<td>([a-z ]+)</td><td class="n">([\d.]+) %</td><td class="n">([\d.]+)</td>', p) for p in parts]
    assert [found and found.groups() for found in means] == [("judge", "75.0", "25.0"), ("true reward", "25.0", "25.0")]
    assert section.count("% together") == 4  # two methods by judge and truth
    assert "</code> above 1." in section  # one answer
    with (to / "variance.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shares = [float(row["share"]) for row in rows if (row["group"], row["opponent"]) == ("ipo", "chosen")]
    assert len(rows) == 2 * 2 * (3 + 2) and sum(shares) == pytest.approx(2.0)
    with (to / "method_comparisons.csv").open(encoding="utf-8") as file:
        found = {(row["opponent"], row["scorer"]): float(row["difference"]) for row in csv.DictReader(file)}
    by_judge, by_truth = 0.75 - 0.625, 0.25 - 0.625  # over the chosen answers
    assert found == pytest.approx(
        {
            ("chosen", "judge"): by_judge,
            ("chosen", "true reward"): by_truth,
            ("sft", "judge"): -by_judge,
            ("sft", "true reward"): -by_truth,
        }
    )
    assert (to / "groups.csv").is_file()


def test_what_is_said_of_methods_holds_for_all_pairs_together(outputs: Callable[..., Path]) -> None:
    """Seven of 60 prompts differ, all one way: t = 2.4, which decides alone and not as one of three pairs."""
    more, fewer = [1.0] * 37 + [0.0] * 23, [1.0] * 30 + [0.0] * 30
    two = {"dpo": more, "dpo_18": more, "ipo": fewer, "ipo_18": fewer}
    (row, _) = method_comparisons(read_results(outputs(truth=False, **two), TWO_EACH))
    assert row["outcome"] == "better" and row["low"] == row["low_together"] > 0.0
    three = TWO_EACH | {"kto": {"method": "kto"}, "kto_18": {"method": "kto", "seed": 18}}
    results = read_results(outputs(truth=False, **two, kto=more, kto_18=more), three)
    row = method_comparisons(results)[0]
    assert row["low_together"] < 0.0 < row["low"] and row["outcome"] == "cannot be told apart"
    assert said(results)[0].startswith("No two methods can be told apart")
