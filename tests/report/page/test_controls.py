"""The judge's controls on one scale, and the worst of them in the headline."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.pipeline.stage.files import read_json, write_json
from epsilon_dpo.report.page.controls import controls, qualification
from epsilon_dpo.report.page.page import write_report
from epsilon_dpo.report.page.results import Results, read_results

Runs = dict[str, dict[str, Any]]
BEGINS = "Read every judged rate with the judge's worst control in mind (a coin would score 50 %): "


@pytest.fixture
def results(outputs: Callable[..., Path], runs: Runs) -> Callable[..., Results]:
    """With other values in the metrics of stages judge and controls; None takes one out."""

    def make(
        truth: bool = True, judge: dict[str, Any] | None = None, controls: dict[str, Any] | None = None
    ) -> Results:
        out = outputs(truth=truth)
        for stage, changes in (("judge", judge or {}), ("controls", controls or {})):
            found = read_json(out / stage / "metrics.json") | changes
            write_json(out / stage / "metrics.json", {name: x for name, x in found.items() if x is not None})
        return read_results(out, runs)

    return make


def test_the_default_of_old(results: Callable[..., Results]) -> None:
    """Answers to other prompts win 52 % where the truth lets 15 % win: 37 of 35 points on the way to a coin."""
    judge = {"accuracy": 0.72, "true_win_rate": 0.8, "truth_agreement": 0.85, "flip_rate": 0.02}
    other = {"truth_agreement/sft_vs_chosen": 0.84, "win_rate/shuffled_vs_chosen": 0.52}
    found = results(judge=judge, controls=other | {"true_win_rate/shuffled_vs_chosen": 0.15})
    assert qualification(found) == [
        BEGINS + "it lets answers to other prompts win against the chosen ones in 52.0 % of cases "
        "(by the true reward in 15.0 %)."
    ]
    failures = {row["control"]: row["failure"] for row in controls(found)}
    assert failures == {
        "other prompts": pytest.approx(37 / 35),
        "truth of answers": pytest.approx(0.32),
        "truth": pytest.approx(0.3),
        "labels": pytest.approx(8 / 30),
        "order": pytest.approx(0.04),
    }
    assert list(failures) == ["other prompts", "truth of answers", "truth", "labels", "order"]


@pytest.mark.parametrize(
    ("judge", "says"),
    [
        ({"flip_rate": 0.45}, "swapping the two answers flips 45.0 % of its verdicts."),
        (
            {"truth_agreement": 0.55},
            "it agrees with the true reward on 55.0 % of the evaluation pairs that the true reward decides.",
        ),
        (
            {"accuracy": 0.55, "true_win_rate": 0.8},
            "it agrees with the labels of 55.0 % of the evaluation pairs, the true reward of 80.0 %.",
        ),
    ],
)
def test_the_worst_is_said(results: Callable[..., Results], judge: dict[str, Any], says: str) -> None:
    good = {"accuracy": 0.8, "true_win_rate": 0.8, "truth_agreement": 0.95, "flip_rate": 0.0}
    found = results(judge=good | judge, controls={"win_rate/shuffled_vs_chosen": 0.02})
    assert qualification(found) == [BEGINS + says]


def test_without_a_truth_labels_are_the_control_where_there_is_no_other(results: Callable[..., Results]) -> None:
    """Nobody knows how noisy they are."""
    found = results(truth=False, judge={"accuracy": 0.7}, controls={"win_rate/shuffled_vs_chosen": 0.2})
    assert [(row["control"], row["right"]) for row in controls(found)] == [("other prompts", 0.0)]
    says = "it lets answers to other prompts win against the chosen ones in 20.0 % of cases."
    assert qualification(found) == [BEGINS + says]
    without = results(truth=False, judge={"accuracy": 0.7}, controls={"win_rate/shuffled_vs_chosen": None})
    assert [row["control"] for row in controls(without)] == ["labels"]
    assert qualification(without) == [BEGINS + "it agrees with the labels of 70.0 % of the evaluation pairs."]


def test_a_control_that_a_coin_would_pass_says_nothing(results: Callable[..., Results]) -> None:
    found = results(controls={"true_win_rate/shuffled_vs_chosen": 0.48})
    assert "other prompts" not in [row["control"] for row in controls(found)]


def test_a_judge_better_than_asked_has_no_failure(results: Callable[..., Results]) -> None:
    found = results(judge={"accuracy": 0.9, "true_win_rate": 0.8})
    assert next(row["failure"] for row in controls(found) if row["control"] == "labels") == 0.0


def test_it_stands_in_the_headline_and_in_the_summary(results: Callable[..., Results], tmp_path: Path) -> None:
    content = (
        write_report(results(), 0, (tmp_path / "report").resolve()) if (tmp_path / "report").mkdir() is None else {}
    )
    page = (tmp_path / "report/report.html").read_text("utf-8")
    headline = page.split('<div class="said">')[1].split("</div>")[0]
    assert (
        "it lets answers to other prompts win against the chosen ones in 50.0 % of cases (by the true reward in 0.0 %)"
        in headline
    )
    assert content["judge_controls"][0]["control"] == "other prompts" and content["judge_controls"][0]["failure"] == 1.0
    assert content["statements"][-1].startswith(BEGINS)
