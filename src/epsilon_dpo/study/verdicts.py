"""A claim against what was measured: estimate, interval over replicates, n, verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from epsilon_dpo.analysis.intervals.rates import mean
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row
from epsilon_dpo.pipeline.stage.runs import FINAL
from epsilon_dpo.study.claims import Claim, Study, Verdict
from epsilon_dpo.study.measures import MEASURES, Measured

FEWEST = 3  # replicates that decide: two of them can agree by chance, since win rates move in steps of half a prompt
SMALLEST_PART = 0.05  # of a mean, that can make it mixed
UNDECIDED: Verdict = "undecided at this n"


@dataclass(frozen=True)
class Answer:
    """What values of several replicates say of a claim.

    Attributes:
        value, low, high: their mean, None without any, and its interval, None with less than two replicates.
    """

    verdict: Verdict
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class PartAnswer(Answer):
    """The same of one part of what is averaged, its `share` of the whole; `n` replicates have this part."""

    share: float = 0.0
    n: int = 0


@dataclass(frozen=True)
class Finding(Answer):
    """What the study says of a claim.

    Attributes:
        by_seed: the measured value of each replicate.
        missing: why a replicate has none; then there is no interval, which would be of those that happen to have one.
        parts: of what is averaged, by name. Where the claim holds in one and fails in another, the mean is as much a
            choice of what was averaged as a result, and the verdict is `mixed`.
        alone: the verdict of the mean, whatever its parts say.
        ranges: of the same comparison over other ranges of budgets, by name.
    """

    claim: Claim = field(kw_only=True)
    by_seed: dict[int, float] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)
    parts: dict[str, PartAnswer] = field(default_factory=dict)
    alone: Verdict | None = None
    ranges: dict[str, Answer] = field(default_factory=dict)

    @property
    def verdict_by_range(self) -> bool:
        """Whether another range of budgets gives another verdict. More replicates would not choose the range."""
        return any(other.verdict != self.alone for other in self.ranges.values())

    @property
    def sign_by_range(self) -> bool:
        """Whether another range of budgets gives a mean on the other side of the claim's border."""
        if not self.ranges:
            return False
        assert self.claim.expected is not None
        than = self.claim.expected.than
        return len({answer.value is not None and answer.value > than for answer in (self, *self.ranges.values())}) > 1


def findings(study: Study, results: Mapping[str, Sequence[Row]]) -> list[Finding]:
    """Every claim of the study, in its order.

    A replicate is one value, so the interval is Student's over replicates: of what is drawn anew in each.

    Args:
        results: the rows of each level that has any.
    """
    return [_finding(claim, results.get(claim.level or "", []), study.confidence) for claim in study.claims]


def _finding(claim: Claim, rows: Sequence[Row], confidence: float) -> Finding:
    if claim.test is not None:
        return Finding("by a test", claim=claim)
    if claim.measure is None or not rows:
        return Finding("not run", claim=claim)
    measured, missing = _measured(claim, rows)
    by_seed = {seed: found.value for seed, found in measured.items()}
    if missing:
        return Finding("not measurable", claim=claim, by_seed=by_seed, missing=missing)
    grain = max(found.grain for found in measured.values())
    whole = _answer(claim, list(by_seed.values()), grain, confidence)
    parts = _parts(claim, list(measured.values()), grain, confidence)
    decided = {part.verdict for part in parts.values() if part.share >= SMALLEST_PART}
    said = "mixed" if {"holds", "fails"} <= decided else whole.verdict
    names = next(iter(measured.values())).ranges
    ranges = {
        name: _answer(claim, [found.ranges[name] for found in measured.values()], grain, confidence) for name in names
    }
    ends = (whole.value, whole.low, whole.high)
    return Finding(said, *ends, claim=claim, by_seed=by_seed, parts=parts, alone=whole.verdict, ranges=ranges)


def _answer(claim: Claim, values: Sequence[float], grain: float, confidence: float) -> Answer:
    """Nothing is decided by fewer than three replicates, by values that are all the same, whose interval has no width,
    or by a mean that is nearer to the border than `grain`."""
    if len(values) < 2:
        return Answer(UNDECIDED, value=values[0])
    found = mean(values, confidence)
    assert claim.expected is not None
    decided = have_an_interval(values) and abs(found.value - claim.expected.than) >= grain
    said = verdict(claim, found.low, found.high) if decided else UNDECIDED
    return Answer(said, found.value, found.low, found.high)


def have_an_interval(values: Sequence[float]) -> bool:
    """Whether that of their mean says something: they are enough, and not all the same."""
    return len(values) >= FEWEST and min(values) < max(values)


def _parts(claim: Claim, measured: Sequence[Measured], grain: float, confidence: float) -> dict[str, PartAnswer]:
    """None of a value that is the mean of one thing. A part that a replicate lacks decides nothing: those that have it
    would have been chosen by their values."""
    names = dict.fromkeys(name for found in measured for name in found.parts)
    answers = {}
    for name in names if len(names) > 1 else ():
        own = [found.parts[name] for found in measured if name in found.parts]
        answer = _answer(claim, [part.value for part in own], grain, confidence)
        said = answer.verdict if len(own) == len(measured) else UNDECIDED
        share = sum(part.share for part in own) / len(measured)
        answers[name] = PartAnswer(said, answer.value, answer.low, answer.high, share, len(own))
    return answers


def _measured(claim: Claim, rows: Sequence[Row]) -> tuple[dict[int, Measured], dict[int, str]]:
    asked = dict(claim.measure or {})
    measure = MEASURES[asked.pop("name")]
    found: dict[int, Measured] = {}
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
    return UNDECIDED
