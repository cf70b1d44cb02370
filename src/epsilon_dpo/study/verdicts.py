"""A claim against what was measured: estimate, interval over replicates, n, verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from epsilon_dpo.analysis.differences.differences import difference
from epsilon_dpo.study.claims import Claim, Study
from epsilon_dpo.study.measures import MEASURES, Row

Verdict = Literal["holds", "fails", "undecided at this n", "not run"]


@dataclass(frozen=True)
class Finding:
    """What the study says of a claim.

    Attributes:
        by_seed: the measured number of each replicate.
        value, low, high: their mean and its interval; None with less than two replicates.
    """

    claim: Claim
    verdict: Verdict
    by_seed: dict[int, float]
    value: float | None = None
    low: float | None = None
    high: float | None = None


def findings(study: Study, results: Mapping[str, Sequence[Row]]) -> list[Finding]:
    """Every claim of the study, in its order.

    The replicates differ in seed and share nothing else that is drawn: data, reference, judge and trainings are new in
    each. So their values are independent, and the interval is Student's.

    Args:
        results: the rows of each level that has any.
    """
    return [_finding(claim, results.get(claim.level or "", []), study.confidence) for claim in study.claims]


def _finding(claim: Claim, rows: Sequence[Row], confidence: float) -> Finding:
    if claim.test is not None:
        return Finding(claim, "holds", {})
    if claim.measure is None or not rows:
        return Finding(claim, "not run", {})
    asked = dict(claim.measure)
    measure = MEASURES[asked.pop("name")]
    seeds = sorted({int(row["seed"]) for row in rows})
    by_seed = {seed: measure([row for row in rows if int(row["seed"]) == seed], **asked) for seed in seeds}
    if len(seeds) < 2:
        return Finding(claim, "undecided at this n", by_seed, value=by_seed[seeds[0]])
    found = difference(list(by_seed.values()), np.arange(len(seeds)), confidence, bound=None)
    return Finding(claim, verdict(claim, found.low, found.high), by_seed, found.value, found.low, found.high)


def verdict(claim: Claim, low: float, high: float) -> Verdict:
    """By the interval: it lies on the side that the claim names, on the other, or on both."""
    assert claim.expected is not None
    than, above = claim.expected.than, claim.expected.is_ == "above"
    if low > than:
        return "holds" if above else "fails"
    if high < than:
        return "fails" if above else "holds"
    return "undecided at this n"
