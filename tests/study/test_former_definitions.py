"""What claims said before they were defined anew, recomputed from the published rows, and rules that decide nothing."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t

from epsilon_dpo.study import verdicts
from epsilon_dpo.study.claims import Claim, read_study
from epsilon_dpo.study.collect import read_results
from epsilon_dpo.study.verdicts import findings, verdict

ROOT = Path(__file__).parents[2]
Rows = list[dict[str, str]]
NOT_IN_THE_ROWS = {"margins_are_not_quality"}  # which a02c341c has


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def replicates(level: str) -> list[Rows]:
    with (ROOT / "study/results" / level / "policies.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    return [[row for row in rows if row["seed"] == seed] for seed in sorted({row["seed"] for row in rows})]


def of(rows: Rows, recipe: dict[str, Any], final: bool = True) -> Rows:
    return [row for row in rows if json.loads(row["recipe"]) == recipe and (row["place"] == ".") == final]


def first_curve(rows: Rows, recipe: dict[str, Any], scorer: str) -> NDArray[np.float64]:
    return np.array(sorted((float(row["kl"]), float(row[f"win_rate_{scorer}"])) for row in of(rows, recipe))).T


def over_shared_kls(rows: Rows, first: dict[str, Any], second: dict[str, Any], scorer: str) -> float:
    """Of 9e5708aa: curves join the policies by KL, and are compared where both have some."""
    curves = [first_curve(rows, recipe, scorer) for recipe in (first, second)]
    at = np.linspace(max(kl[0] for kl, _ in curves), min(kl[-1] for kl, _ in curves), 64)
    ours, theirs = (np.interp(at, kl, wins) for kl, wins in curves)
    return float(np.mean(ours - theirs))


def decided(rows: Rows, first: dict[str, Any], second: dict[str, Any], **_: Any) -> float:
    """Of 9e5708aa: pairs whose beta is lowered or raised."""
    ours, theirs = (
        {row["beta"]: float(row["lowered_share"]) + float(row["raised_share"]) for row in of(rows, recipe)}
        for recipe in (first, second)
    )
    return float(np.mean([ours[beta] - theirs[beta] for beta in ours]))


def all_snapshots(rows: Rows, first: dict[str, Any], second: dict[str, Any], column: str) -> float:
    """Of 9e5708aa: the mean over the snapshots within the epoch."""
    ours, theirs = (
        {(row["beta"], row["place"]): float(row[column]) for row in of(rows, recipe, final=False)}
        for recipe in (first, second)
    )
    return float(np.mean([ours[key] - theirs[key] for key in ours]))


FIRST: dict[str, Callable[..., float]] = {"win_rate_at_equal_kl": over_shared_kls, "early_difference": all_snapshots}


def interval(values: list[float]) -> tuple[float, float, float]:
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(np.mean(values) - half), float(np.mean(values) + half)


def said(claim: Claim, values: list[float]) -> tuple[str, str]:
    ends = interval(values)
    return verdict(claim, *ends[1:]), "{:+.3f} [{:+.3f}, {:+.3f}]".format(*ends)


def test_former_verdicts_are_those_of_the_published_rows() -> None:
    study = read_study()
    today = {found.claim.id: found for found in findings(study, {level: read_results(level) for level in study.levels})}
    compared = 0
    for claim in study.claims:
        for was in claim.formerly:
            if was.verdict is None or claim.id in NOT_IN_THE_ROWS:
                continue
            assert claim.level is not None and claim.measure is not None
            values = list(today[claim.id].by_seed.values())
            if was.values == "unknown" and "same measure" not in was.was:
                asked = {key: value for key, value in claim.measure.items() if key != "name"}
                former = FIRST.get(claim.measure["name"], decided)
                values = [former(rows, **asked) for rows in replicates(claim.level)]
            assert (was.verdict, was.measured) == said(claim, values), (claim.id, was.until)
            compared += 1
    assert compared > 20


def test_what_the_page_says_of_other_ranges_is_what_the_rows_do() -> None:
    """Of ε-DPO and DPO, and of TR-DPO with hard updates and ε-DPO, by mixtures of two policies at most."""
    page = (ROOT / "docs/replication.md").read_text("utf-8")
    claims = {claim.id: claim for claim in read_study().claims}
    for id_ in ("epsilon_dpo_over_dpo", "tr_dpo_hard_under_epsilon_dpo"):
        measure = claims[id_].measure or {}
        to_best, from_both = [], []
        for rows in replicates("controlled"):
            points = [
                np.hstack([first_curve(rows, {"method": "sft"}, "true"), first_curve(rows, measure[name], "true")])
                for name in ("first", "second")
            ]
            best = max(kl[wins.argmax()] for kl, wins in points)
            least = max(np.sort(kl)[1] for kl, _ in points)
            for start, values in ((0.0, to_best), (least, from_both)):
                at = np.linspace(start, max(start, best), 256)
                values.append(float(np.mean(mixed(points[0], at) - mixed(points[1], at))))
        definition = page.partition(f'<a id="{id_}">')[2].partition("\n### ")[0]
        for name, values in (("0", to_best), ("the least KL at which both have policies", from_both)):
            verdict_, measured = said(claims[id_], values)
            ending = f", {verdict_}." if verdict_ in ("holds", "fails") else "."
            assert f"- Over budgets from {name} to the later best policy's KL: {measured}{ending}\n" in definition
        assert "**The verdict depends on the [range of budgets]" in definition


def mixed(points: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """The best win rate of a mixture of two policies whose KL is at most the budget."""
    best = []
    for budget in at:
        found = [win for kl, win in points.T if kl <= budget]
        found += [
            left + (right - left) * (budget - low) / (high - low)
            for low, left in points.T
            for high, right in points.T
            if low <= budget < high
        ]
        best.append(max(found))
    return np.array(best)


def test_rules_that_came_after_the_first_values_decide_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """That a mean is half a prompt from its border, that a part is 5 % of the mean, that replicates are three."""
    study = read_study()
    results = {level: read_results(level) for level in study.levels}
    results = {level: rows for level, rows in results.items() if len({row["seed"] for row in rows}) >= verdicts.FEWEST}
    today = [found.verdict for found in findings(study, results)]
    answer = verdicts._answer
    monkeypatch.setattr(verdicts, "SMALLEST_PART", 0.0)
    monkeypatch.setattr(verdicts, "FEWEST", 2)
    monkeypatch.setattr(
        verdicts, "_answer", lambda claim, values, _, confidence: answer(claim, values, 0.0, confidence)
    )
    assert [found.verdict for found in findings(study, results)] == today
