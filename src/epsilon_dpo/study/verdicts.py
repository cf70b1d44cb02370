"""A claim against what was measured: estimate, interval over replicates, n, verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from epsilon_dpo.analysis.intervals.differences import difference
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row
from epsilon_dpo.pipeline.stage.runs import FINAL
from epsilon_dpo.study.claims import Claim, Study
from epsilon_dpo.study.measures import MEASURES

FEWEST = 3  # replicates that decide: two of them can agree by chance, since win rates move in steps of half a prompt
Verdict = Literal["holds", "fails", "undecided at this n", "not measurable", "by a test", "not run"]


@dataclass(frozen=True)
class Finding:
    """What the study says of a claim.

    Attributes:
        by_seed: the measured value of each replicate.
        missing: why a replicate has none; then there is no interval, which would be of those that happen to have one.
        value, low, high: their mean and its interval; None with less than two replicates. Fewer than three decide
            nothing, and neither do values that are all the same, whose interval has no width.
    """

    claim: Claim
    verdict: Verdict
    by_seed: dict[int, float] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)
    value: float | None = None
    low: float | None = None
    high: float | None = None


def findings(study: Study, results: Mapping[str, Sequence[Row]]) -> list[Finding]:
    """Every claim of the study, in its order.

    A replicate is one value, so the interval is Student's over replicates: of what is drawn anew in each.

    Args:
        results: the rows of each level that has any.
    """
    return [_finding(claim, results.get(claim.level or "", []), study.confidence) for claim in study.claims]


def _finding(claim: Claim, rows: Sequence[Row], confidence: float) -> Finding:
    if claim.test is not None:
        return Finding(claim, "by a test")
    if claim.measure is None or not rows:
        return Finding(claim, "not run")
    by_seed, missing = _measured(claim, rows)
    if missing:
        return Finding(claim, "not measurable", by_seed, missing)
    values = list(by_seed.values())
    if len(values) < 2:
        return Finding(claim, "undecided at this n", by_seed, value=values[0])
    found = difference(values, np.arange(len(values)), confidence, bound=None)
    decided = len(values) >= FEWEST and min(values) < max(values)
    said = verdict(claim, found.low, found.high) if decided else "undecided at this n"
    return Finding(claim, said, by_seed, {}, found.value, found.low, found.high)


def _measured(claim: Claim, rows: Sequence[Row]) -> tuple[dict[int, float], dict[int, str]]:
    asked = dict(claim.measure or {})
    measure = MEASURES[asked.pop("name")]
    found: dict[int, float] = {}
    missing: dict[int, str] = {}
    for seed in sorted({int(row["seed"]) for row in rows}):
        own = [row for row in rows if int(row["seed"]) == seed]
        try:
            _require_all(own, rows)
            found[seed] = measure(own, **asked)
        except UserError as error:
            missing[seed] = str(error)
    return found, missing


def _require_all(replicate: Sequence[Row], rows: Sequence[Row]) -> None:
    """A frontier or a mean over beta that lacks a policy would be of something else than those of the others.

    Raises:
        UserError: this replicate lacks a policy that another one has.
    """
    own, others = ({(row["run"], row["place"]) for row in of} for of in (replicate, rows))
    if lacking := sorted(others - own):
        run, place = lacking[0]
        raise UserError(f"no {run}" + ("" if place == FINAL else f"/{place}"))


def verdict(claim: Claim, low: float, high: float) -> Verdict:
    """By the interval: it lies on the side that the claim names, on the other, or on both."""
    assert claim.expected is not None
    than, above = claim.expected.than, claim.expected.is_ == "above"
    if low > than:
        return "holds" if above else "fails"
    if high < than:
        return "fails" if above else "holds"
    return "undecided at this n"
