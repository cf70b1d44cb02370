"""How two versions of a file differ, and which differences are no more than rounding."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from epsilon_dpo.pipeline.observability.errors import printable

BIT_EQUAL, WITHIN, DIFFERENT = "bit-equal", "equal within tolerance", "different"
FAILED = "failed"
ONE_PASS = 2.0**-18  # float32 rounds by 2**-24, and a sum of some thousand terms is off by about 2**6 such roundings
NUMBER, TEXT, DIGEST, ORDER = "number", "text", "digest", "order"
DIGESTS = re.compile(r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}")
SHOWN_CHARACTERS = 40


def tolerance(steps: int) -> float:
    """The largest relative difference that another order of float32 additions explains by itself.

    One pass through a model is off by ONE_PASS, and the errors of a training's steps add up as a random walk does. What
    a training blows up beyond that is another model, however it began: it is `different`.

    Args:
        steps: optimizer steps behind the output, 0 where nothing is trained.
    """
    return ONE_PASS * math.sqrt(1 + steps)


@dataclass(frozen=True)
class Place:
    """One value that differs.

    Attributes:
        where: step, tensor, row or key, as a reader finds it.
        kind: NUMBER, TEXT, DIGEST (of other bytes, which are compared themselves) or ORDER (the same rows otherwise).
        relative: the difference divided by the largest magnitude: in the tensor, under this key in a file of rows, else
            of the two values. None: no number.
    """

    where: str
    kind: str
    recorded: str
    remade: str
    relative: float | None = None

    def __str__(self) -> str:
        amount = "" if self.relative is None else f" (relative {self.relative:.1e})"
        return f"{self.where}: recorded {_shown(self.recorded)}, now {_shown(self.remade)}{amount}"


@dataclass(frozen=True)
class FileDifference:
    """How a file differs from its recorded version.

    Attributes:
        file: its path from the project's root.
        first: the first place, by step, row or layer.
        count: the places that differ; of a file that is compared as a whole 1.
        unit: what is counted.
        largest: the largest relative difference of a number; None if none differs.
        kinds: those of all places.
        beside: where it differs in the same step or row as `first`.
    """

    file: str
    first: Place
    count: int
    unit: str
    largest: float | None
    kinds: frozenset[str]
    beside: tuple[str, ...]

    def within(self, allowed: float) -> bool:
        """Whether only numbers differ, and none by more than `allowed`, beside digests."""
        return self.kinds <= {NUMBER, DIGEST} and (self.largest is None or self.largest <= allowed)

    def __str__(self) -> str:
        more = f"; {self.count:,} {self.unit} differ" if self.count > 1 else ""
        most = f", by at most {self.largest:.1e}" if self.count > 1 and self.largest is not None else ""
        return f"{self.file}: {self.first}{more}{most}"


def gathered(file: str, places: Iterable[Place], unit: str) -> FileDifference | None:
    """The places of one file, first to last; None if there are none: other bytes for the same content."""
    found = list(places)
    if not found:
        return None
    amounts = [place.relative for place in found if place.relative is not None]
    row = found[0].where.partition(", ")[0]
    return FileDifference(
        file=file,
        first=found[0],
        count=len(found),
        unit=unit,
        largest=max(amounts, default=None),
        kinds=frozenset(place.kind for place in found),
        beside=tuple(place.where for place in found if place.where.partition(", ")[0] == row),
    )


def relative(recorded: float, remade: float) -> float:
    """|difference| / larger magnitude: 0 for equal values, NaN too; infinite where just one is a finite number."""
    if recorded == remade or (math.isnan(recorded) and math.isnan(remade)):
        return 0.0
    if not (math.isfinite(recorded) and math.isfinite(remade)):
        return math.inf
    return abs(recorded - remade) / max(abs(recorded), abs(remade))


def text_place(where: str, recorded: object, remade: object) -> Place:
    """Two values that are not two numbers."""
    both = str(recorded), str(remade)
    kind = DIGEST if all(DIGESTS.fullmatch(text) for text in both) else TEXT
    return Place(where, kind, *both)


def _shown(text: str) -> str:
    text = printable(" ".join(text.split()))  # it may be of a dataset, or of a policy
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
