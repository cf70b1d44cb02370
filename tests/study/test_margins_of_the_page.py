"""What the page says of margins and true rewards, recomputed from the published rows without the study's code."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t

ROOT = Path(__file__).parents[2]
BETAS = ("0.03", "0.1", "0.3", "1.0")


def published(column: str) -> NDArray[np.float64]:
    """Of DPO at the four β, [replicates, β]."""
    with (ROOT / "study/results/perturbation/policies.csv").open(encoding="utf-8", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["beta"] in BETAS]
    values = {(row["seed"], row["beta"]): float(row[column]) for row in rows}
    assert len(values) == len(rows) == 8 * len(BETAS)
    return np.array([[values[str(seed), beta] for beta in BETAS] for seed in range(17, 25)])


def ends(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean and Student's interval over replicates, [replicates]."""
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return values.mean(), values.mean() - half, values.mean() + half


def written(found: tuple[float, float, float]) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found)


SIZE = ("margins_are_not_quality", ("quality_order",), "correlation", 0.5**0.5)
ORDER = ("margins_err_less_than_labels", ("wrong_order", "wrong_labels"), "share of pairs", 0.0)


@pytest.mark.parametrize(
    ("of", "verdict", "at_beta"),
    [(SIZE, "mixed", ("holds", "holds", "", "fails")), (ORDER, "holds", ("holds",) * 4)],
)
def test_the_page_says_what_the_rows_do(
    of: tuple[str, tuple[str, ...], str, float], verdict: str, at_beta: tuple[str, ...]
) -> None:
    """Both claims are that a value is below their border."""
    id_, columns, unit, border = of
    first, *minus = (published(column) for column in columns)
    values = first - sum(minus)
    page = (ROOT / "docs/replication.md").read_text("utf-8")
    assert f"](#{id_}), {written(ends(values.mean(axis=1)))} {unit}, n 8" in page
    definition = page.partition(f'<a id="{id_}">')[2].partition("\n### ")[0]
    for beta, own, said in zip(BETAS, values.T, at_beta, strict=True):
        assert f"- At β {beta}: {written(ends(own))}{said and f', {said}'}." in definition
        _, low, high = ends(own)
        assert said == ("holds" if high < border else "fails" if low > border else "")
    claims = json.loads((ROOT / "study/verdicts.json").read_text("utf-8"))["claims"]
    (row,) = (claim for claim in claims if page.count(f"[{claim['claim']}](#{id_})"))
    assert (row["verdict"], row["post_hoc"], row["n"]) == (verdict, True, 8)
    assert (row["value"], row["low"], row["high"]) == pytest.approx(ends(values.mean(axis=1)), abs=1e-6)


def test_shares_that_the_notes_name() -> None:
    """One pair of ten, one of five, a third of the variance at the smallest β and more than half at the largest."""
    assert 1 / published("wrong_order").mean() == pytest.approx(10, abs=0.6)
    assert 1 / published("wrong_labels").mean() == pytest.approx(5, abs=0.2)
    explained = published("quality_order").mean(axis=0) ** 2
    assert explained[0] == pytest.approx(1 / 3, abs=0.02) and explained[-1] > 0.5
    assert (np.diff(explained) > 0).all() and (np.diff(published("wrong_order").mean(axis=0)) < 0).all()
