"""What `epsilon-dpo verify` found of the results on this page: the certificates that are of the same bytes.

A certificate names each stage's output by its sha256, as `digest` takes it; so one of other results cannot pass for one
of these, whatever it is called and whoever wrote it.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row, read_json
from epsilon_dpo.pipeline.stage.fingerprint import digest

# The outputs that this page is made from: of these alone it can say whether a certificate's are the same.
READ = (
    "validate", "judge", "sft", "pairs", "reference", "controls", "align/metrics", "sample", "score", "kl",
    "tournament", "figures",
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
    rows, others = [], 0
    known: dict[str, str | None] = {}  # sha256 of what is there
    for file in sorted(folder.glob("*.json")):
        try:
            row = _row(file.stem, read_json(file), out, known)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{file} is no certificate of `epsilon-dpo verify`; delete it or restore it.") from None
        if row:
            rows.append(row)
        else:
            others += 1
    return Certificates(rows, others)


def _row(name: str, certificate: dict[str, Any], out: Path, known: dict[str, str | None]) -> Row | None:
    """None: it is of other results, or of none that this page is made from."""
    same = 0
    for stage in certificate["stages"].values():
        for path, digests in stage["outs"].items():
            if digests["sha256"] is None or not any(f"{path}/".startswith(f"out/{folder}/") for folder in READ):
                continue
            here = out.joinpath(*Path(path).parts[1:])
            if path not in known:
                known[path] = digest(here) if here.exists() else None
            if known[path] is not None and known[path] != digests["sha256"]:
                return None
            same += known[path] is not None
    if not same:
        return None
    counts = Counter(stage["verdict"] for stage in certificate["stages"].values())
    first = next((stage for stage in certificate["stages"].items() if "differs" in stage[1]), None)
    failed = [f"{stage} ({found['failed']})" for stage, found in certificate["stages"].items() if "failed" in found]
    return {
        "name": name,
        "stages": len(certificate["stages"]),
        "of": certificate["stages_of_the_pipeline"],
        "same": same,
        "bit_equal": counts[BIT_EQUAL],
        "within": counts[WITHIN],
        "different": counts[DIFFERENT],
        "differs": "" if first is None else f"{first[0]}: {first[1]['differs'][0]}; {first[1]['likely_cause']}",
        "failed": "; ".join(failed),
        "computed": _computed(certificate["environment"]),
    }


def _computed(environment: dict[str, str]) -> str:
    """Processor and packages in one cell."""
    facts = dict(environment)
    processor, machine = facts.pop("processor"), facts.pop("machine")
    features, variables = facts.pop("processor.features"), facts.pop("processor.variables")
    widest = next((name for name in ("avx512f", "avx2", "avx", "sve", "asimd") if name in features.split()), "")
    wide = f" with {widest}" if widest else ""
    kept = "" if variables == "none" else f", {variables}"
    return f"{processor}{wide}{kept}; {machine}; " + ", ".join(f"{name} {value}" for name, value in facts.items())
