"""The control setting on the page: its rows by hand, the sentence on a negative KL, and nothing for another judge."""

import csv
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from epsilon_dpo.pipeline.stage.files import read_json, write_json
from epsilon_dpo.report.page.charts import score_against_kl
from epsilon_dpo.report.page.control import best_of_n_bound, control, furthest_below_zero
from epsilon_dpo.report.page.controls import controls, qualification
from epsilon_dpo.report.page.page import write_report
from epsilon_dpo.report.page.results import Results, read_results
from epsilon_dpo.report.style.plot_style import marks

Runs = dict[str, dict[str, Any]]


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def scores(name: str, probability: float, share: float) -> dict[str, float]:
    means = {"positive_probability": probability, "positive_share": share}
    ends = {"": 0.0, "_low": -0.05, "_high": 0.05}
    return {f"{key}/{name}{end}": x + by for key, x in means.items() for end, by in ends.items()}


@pytest.fixture
def results(outputs: Callable[..., Path], runs: Runs) -> Callable[..., Results]:
    """The outputs of a pipeline whose judge is a sentiment classifier."""

    def make(kind: str = "sentiment", **kl: float) -> Results:
        out = outputs(truth=False)
        changes: dict[str, dict[str, Any]] = {
            **{
                f"{one}/judge.json": {"kind": kind, "source": kind, "origin": "by hand"} for one in ("judge", "teacher")
            },
            "judge/metrics.json": {"classifier_accuracy": 0.75, "classifier_accuracy_low": 0.7}
            | {"classifier_accuracy_high": 0.8, "classifier_accuracy_n": 200, "flip_rate": 0.0}
            | {"flip_rate_low": 0.0, "flip_rate_high": 0.1, "flip_rate_n": 40},
            "validate/dataset.json": {"preferences": False},
            "pairs/pairs.json": {"source": "on_policy", "train": 24},
            "controls/metrics.json": scores("sft", 0.5, 0.45) | scores("best_of_4", 0.7, 0.75),
            "score/dpo/metrics.json": scores("run", 0.9, 0.95),
            "score/mine/metrics.json": scores("run", 0.8, 0.85),
            "kl/dpo/metrics.json": kl,
        }
        for name, change in changes.items():
            write_json(out / name, read_json(out / name) | change)
        return read_results(out, runs)

    return make


def test_rows_by_hand(results: Callable[..., Results]) -> None:
    """conftest's runs have a reverse KL of 1.25, k1 of 1.5 on their own answers and 2.5 the other way on the data."""
    sft, best, dpo, mine = control(results(kl_fwd_data=26.6))
    assert (sft["policy"], sft["positive_probability"], sft["kl_rev_rb"]) == ("sft", 0.5, 0.0)
    assert (best["policy"], best["positive_share"]) == ("best_of_4", 0.75)
    assert best["kl_bound"] == pytest.approx(0.6362943611) and "kl_rev_rb" not in best
    assert (dpo["positive_probability"], dpo["kl_rev_rb"], dpo["kl_rev_mc"]) == (0.9, 1.25, 1.5)
    assert dpo["k1_of_pairs"] == -26.6 and mine["k1_of_pairs"] == -2.5 and mine["k1_of_pairs_se"] == 0.1
    assert furthest_below_zero([sft, best, dpo, mine]) is dpo
    assert furthest_below_zero([sft, best]) is None


def test_what_has_a_bound_alone_is_hollow_and_without_an_interval_of_its_kl(
    results: Callable[..., Results], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    score_against_kl(Path("unused"), control(results()), marks(["dpo", "mine"]), "")
    lines = [bars.lines for bars in drawn[0].axes[0].containers]
    assert [(mark.get_xdata()[0], mark.get_markerfacecolor() == "white", len(bars)) for mark, _, bars in lines] == [
        *((0.0, False, 2), (pytest.approx(0.6362943611), True, 1)),  # SFT, best of 4
        *((1.25, False, 2), (1.25, False, 2)),
    ]


def test_the_bound_of_best_of_n() -> None:
    assert best_of_n_bound(1) == 0.0
    assert best_of_n_bound(2) == pytest.approx(0.1931471806) and best_of_n_bound(4) == pytest.approx(math.log(4) - 0.75)


@pytest.mark.drawings
def test_the_page_says_why_no_kl_is_negative(results: Callable[..., Results], tmp_path: Path) -> None:
    write_report(results(kl_fwd_data=7.5), 0, made(tmp_path / "report"))
    page = (tmp_path / "report/report.html").read_text("utf-8")
    section = " ".join(page.split(">The control setting: score and distance</a></h2>")[1].split("<h2 ")[0].split())
    assert re.findall(r"<tr[^>]*><th[^>]*>([^<]*)</th>", section)[1:] == [
        *("sft", "best of 4", "dpo", "mine"),
        *(f"the slides' {name}" for name in ("reference", "PPO", "DPO")),
    ]
    assert section.count("<small>too narrow</small>") == 4, "of so few prompts"
    assert "≤ 0.64" in section and "0.625" in section and "−26.6" in section and "95.0 %" in section
    assert "k1 of <code>dpo</code> is −7.5 ± 0.1 on average, while its KL is 1.2" in section
    with (tmp_path / "report/control.csv").open(encoding="utf-8") as file:
        assert [row["policy"] for row in csv.DictReader(file)] == ["sft", "best_of_4", "dpo", "mine"]
    assert (tmp_path / "report/figures/control.png").is_file()
    assert (
        "24 on-policy pairs (by hand)" in page
        and "ranks or margins of this judge, so that" in " ".join(page.split())
        and "a sentiment classifier (by hand)" in page
    )


def test_without_a_negative_value_the_sentence_claims_none(results: Callable[..., Results], tmp_path: Path) -> None:
    found = results(kl_fwd_data=-1.0)
    write_json(
        tmp_path / "out/kl/mine/metrics.json", read_json(tmp_path / "out/kl/mine/metrics.json") | {"kl_fwd_data": -2.0}
    )
    found = read_results(tmp_path / "out", {run.name: run.config for run in found.runs})
    write_report(found, 0, made(tmp_path / "report"))
    page = (tmp_path / "report/report.html").read_text("utf-8")
    assert "A KL cannot be negative" in page and "A mean of k1 can be negative" not in page


def test_another_judge_has_no_such_table(outputs: Callable[..., Path], runs: Runs, tmp_path: Path) -> None:
    found = read_results(outputs(), runs)
    assert control(found) == []
    write_report(found, 0, made(tmp_path / "report"))
    assert "control setting" not in (tmp_path / "report/report.html").read_text("utf-8")
    assert not (tmp_path / "report/control.csv").exists() and not (tmp_path / "report/figures/control.png").exists()


def test_a_classifier_is_qualified_by_texts_and_not_by_pairs_that_nobody_compared(
    results: Callable[..., Results],
) -> None:
    """Pairs without a preference, and answers to other prompts, say nothing against a classifier of single texts."""
    found = results()
    assert {row["control"] for row in controls(found)} == {"texts", "order"}
    assert "it finds the label of 75.0 % of the held-out texts." in qualification(found)[0]
