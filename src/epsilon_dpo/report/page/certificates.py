"""What `epsilon-dpo verify` found of the results on this page: the certificates that are of the same bytes.

A certificate names each stage's output by its sha256, as `digest` takes it; so one of other results cannot pass for one
of these, whatever it is called and whoever wrote it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row, read_json
from epsilon_dpo.pipeline.stage.fingerprint import digest

# The outputs that this page is made from: of these alone it can say whether a certificate's are the same.
READ = (
    "validate", "judge", "teacher", "sft", "ranking_usage", "pairs", "margins_usage", "reference", "controls",
    "align/metrics", "sample", "score", "kl", "tournament", "figures",
)  # fmt: skip
BIT_EQUAL, WITHIN, DIFFERENT = "bit-equal", "equal within tolerance", "different"


@dataclass(frozen=True)
class Certificates:
    """Those of this page's results as rows of a table, and the number of those of other results."""

    rows: list[Row]
    others: int


NONE = Certificates([], 0)


def read_certificates(folder: Path, out: Path) -> Certificates:
    """The certificates in `folder`, held against the outputs below `out`.

    Raises:
        UserError: a file there is none.
    """

    @cache
    def sha256(path: str) -> str | None:
        """Of the output that is there."""
        output = out.joinpath(*Path(path).parts[1:])
        return digest(output) if output.exists() else None

    found = []
    for file in sorted(folder.glob("*.json")):
        try:
            found.append(_row(file.stem, read_json(file), sha256))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{file} is no certificate of `epsilon-dpo verify`; delete it or restore it.") from None
    return Certificates([row for row in found if row], found.count(None))


def _row(name: str, certificate: dict[str, Any], sha256: Callable[[str], str | None]) -> Row | None:
    """None: it is of other results, or of none that this page is made from."""
    stages = certificate["stages"]
    same = _same(stages, sha256)
    if not same:
        return None
    counts = Counter(found["verdict"] for found in stages.values())
    first = next((stage for stage, found in stages.items() if "differs" in found), None)
    failed = [f"{stage} ({found['failed']})" for stage, found in stages.items() if "failed" in found]
    return {
        "name": name,
        "stages": len(stages),
        "of": certificate["stages_of_the_pipeline"],
        "same": same,
        "bit_equal": counts[BIT_EQUAL],
        "within": counts[WITHIN],
        "different": counts[DIFFERENT],
        "differs": f"{first}: {stages[first]['differs'][0]}; {stages[first]['likely_cause']}" if first else "",
        "failed": "; ".join(failed),
        "computed": _computed(certificate["environment"]),
    }


def _same(stages: dict[str, Any], sha256: Callable[[str], str | None]) -> int:
    """How many outputs that this page is made from are those of the certificate; 0 if one of them is another."""
    same, read = 0, tuple(f"out/{folder}/" for folder in READ)
    for path, digests in chain.from_iterable(found["outs"].items() for found in stages.values()):
        if digests["sha256"] is not None and f"{path}/".startswith(read):
            here = sha256(path)
            if here not in (None, digests["sha256"]):
                return 0
            same += here is not None
    return same


def _computed(environment: dict[str, str]) -> str:
    """Processor and packages in one cell."""
    facts = dict(environment)
    processor, machine = facts.pop("processor"), facts.pop("machine")
    features, variables = facts.pop("processor.features"), facts.pop("processor.variables")
    widest = next((name for name in ("avx512f", "avx2", "avx", "sve", "asimd") if name in features.split()), "")
    wide = f" with {widest}" if widest else ""
    kept = "" if variables == "none" else f", {variables}"
    return f"{processor}{wide}{kept}; {machine}; " + ", ".join(f"{name} {value}" for name, value in facts.items())
