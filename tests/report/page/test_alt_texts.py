"""What is said of a figure to those who cannot see it: results by hand, and the same values as in the page's tables."""

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

from epsilon_dpo.report.page.alt_texts import (
    beta_alt,
    beta_decisions_alt,
    control_alt,
    kl_alt,
    training_alt,
    win_rates_alt,
)
from epsilon_dpo.report.page.page import write_report
from epsilon_dpo.report.page.results import read_results
from epsilon_dpo.report.style.alt_text import LIMIT


def rate(name: str, value: float, reach: float = 0.05) -> dict[str, float]:
    return {name: value, f"{name}_low": value - reach, f"{name}_high": value + reach}


def policy(run: str, chosen: float, kl: float, **more: float) -> dict[str, Any]:
    row = {"run": run, **rate("kl_fwd_rb", kl, 0.1), **rate("win_rate/chosen", chosen)}
    return row | {key: x for name, value in more.items() for key, x in rate(f"{name}/chosen", value).items()}


SFT = policy("sft", 0.475, 0.0)


def test_each_win_rate_while_they_are_few() -> None:
    rows = [SFT, policy("dpo", 0.521, 2.0) | rate("win_rate/sft", 0.56)]
    assert win_rates_alt(rows) == (
        "Win rates. Against the chosen answers: by the judge SFT 47.5 % (42.5 to 52.5), dpo 52.1 % (47.1 to 57.1), "
        "no interval excludes 50 %. Against SFT: by the judge dpo 56.0 % (51.0 to 61.0), intervals above 50 %: 1 of 1."
    )


def test_the_ends_of_many_win_rates_by_the_truth_where_it_is_known() -> None:
    rows = [SFT | rate("true_win_rate/chosen", 0.4)]
    for number in range(60):
        row = policy(f"run_{number}", 0.3, 2.0, true_win_rate=0.411 + number / 500)
        rows.append(row | rate("win_rate/sft", 0.9) | rate("true_win_rate/sft", 0.5))
    # By hand: 0.411 to 0.529; a reach of 0.05 leaves 0.5 out below 0.45, so in the first 20.
    said = win_rates_alt(rows)
    assert said == (
        "Win rates. Against the chosen answers: by the true reward SFT 40.0 % (35.0 to 45.0), "
        "60 runs 41.1 % (run_0) to 52.9 % (run_59), intervals below 50 %: 20 of 60. "
        "Against SFT: by the true reward 60 runs 50.0 % (all 60), no interval excludes 50 %."
    )
    assert len(said) <= LIMIT


def test_the_place_of_each_policy_and_that_a_kl_is_none() -> None:
    rows = [SFT, policy("dpo", 0.521, 1.8249)]
    title = "Win rate against the chosen answers and KL(reference ‖ policy)"
    places = "SFT at 0 nats 47.5 % by the judge; dpo at 1.82 nats 52.1 % by the judge."
    assert kl_alt(rows) == f"{title}: {places}"
    assert kl_alt(rows, "top_p 0.9") == f"{title} (under top_p 0.9: not the policies' KL): {places}"
    many = kl_alt([SFT, *(policy(f"run_{n}", 0.6 - n / 100, 1.0 + n) for n in range(20))])
    assert many.endswith(
        "20 runs at 1.00 nats (run_0) to 20.00 nats (run_19), 41.0 % (run_19) to 60.0 % (run_0) by the judge."
    )


def test_the_control_settings_scores_and_the_most_that_a_kl_can_be() -> None:
    rows: list[dict[str, Any]] = [{"policy": "sft", "positive_probability": 0.625, "kl_rev_rb": 0.0}]
    rows += [{"policy": "best_of_2", "positive_probability": 0.75, "kl_bound": 0.193}]
    rows += [{"policy": "dpo", "positive_probability": 0.991, "kl_rev_rb": 26.6}]
    title = "Mean P(positive) and KL(policy ‖ reference): "
    each = "sft 0.62 at 0.00 nats, best_of_2 0.75 at most 0.19 nats, dpo 0.99 at 26.60 nats."
    assert control_alt(rows) == title + each
    many = control_alt(rows + [rows[2] | {"policy": f"run_{n}"} for n in range(20)])
    kls = "at KLs, or upper bounds, of 0.00 nats (sft) to 26.60 nats (dpo)"
    assert many == f"{title}23 policies, 0.62 (sft) to 0.99 (dpo) {kls}."


def test_where_the_training_curves_go(outputs: Callable[..., Path]) -> None:
    """By hand, from the outputs' four steps, over which a moving average is the values: `dpo` has size 4, `mine` 5."""
    runs = read_results(outputs(), {"dpo": {"method": "dpo"}, "mine": {"method": "epsilon_dpo"}}).runs
    assert training_alt(runs) == (
        "Training curves of 2 runs, moving averages: pairs in the right order up in none of 2, at last 50.0 %; "
        "log-ratio margin, nats up in all 2, at last 1.60 to 2.00; log π(chosen), nats down in all 2, "
        "at last −20.00 to −16.00; KL(ref ‖ policy), nats up in all 2, at last 3.20 to 4.00."
    )
    assert beta_alt(runs[1:]) == "β from the first step to the last: mine from 0.09 to 0.06."
    assert beta_decisions_alt(runs[1:]).endswith("over all steps: mine 50.0 % lowered, 20.0 % kept, 30.0 % raised.")
    for run in runs:
        run.curve[:] = [{"step": 1, "loss": 0.5}]
    assert training_alt(runs[:1]).endswith("1 run, moving averages: the loss of each on a scale of its own.")


def test_the_page_tells_what_each_figure_shows(outputs: Callable[..., Path], tmp_path: Path) -> None:
    """A name for the region that scrolls, the result for the image; its rates are those of the tables."""
    runs: dict[str, dict[str, Any]] = {"dpo": {"method": "dpo", "beta": 0.1}, "mine": {"method": "epsilon_dpo"}}
    (tmp_path / "report").mkdir()
    write_report(read_results(outputs(), runs), 2, tmp_path / "report")
    page = (tmp_path / "report/report.html").read_text("utf-8")
    images = re.findall(r'aria-label="([^"]+)" tabindex="0"><img src="data:[^"]+" alt="([^"]*)"', page)
    assert len(images) == page.count("<img ") == 7
    alts = [unescape(alt) for _, alt in images]
    assert alts[-2:] == ["It <rises>.", "It falls."]
    assert all(re.search(r"\d", alt) and len(alt) <= LIMIT + 20 for alt in alts[:-2])
    cells = set(re.findall(r'<td class="n">\s*([\d.]+ %)<small>', page))
    told = set(re.findall(r"[\d.]+ %(?= \()", alts[0]))
    assert {"50.0 %", "56.2 %", "100.0 %", "43.8 %", "0.0 %"} <= told <= cells
