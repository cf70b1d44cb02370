"""How a sentence of the paper stands by its rows, as they are defined now and as they were at their first values."""

from collections.abc import Mapping, Sequence

from epsilon_dpo.study.claims import Claim, Short, Verdict
from epsilon_dpo.study.verdicts import UNDECIDED, Finding

IN_SOME, IN_BOTH, FAILS_IN_SOME = (
    "holds in some rows, fails in none",
    "holds in some rows, fails in others",
    "fails in some rows, holds in none",
)
STANDINGS = ("holds", IN_SOME, IN_BOTH, FAILS_IN_SOME, "fails", "mixed", UNDECIDED, "by a test", "not run")


def now(row: Short, of: Mapping[str, Finding]) -> list[tuple[Claim, Verdict]]:
    """The sentence's own rows with their verdicts; claims that are ours only help to read them."""
    found = [of[id_] for id_ in row.claims.values()]
    return [(one.claim, one.verdict) for one in found if not one.claim.ours]


def before(row: Short, of: Mapping[str, Finding]) -> list[tuple[Claim, Verdict]]:
    """The same when the first values were committed: with former definitions, and without what was added since."""
    rows = []
    for id_ in row.claims.values():
        claim, was = of[id_].claim, of[id_].claim.before
        if was is not None:
            ours, said = was.ours, was.verdict
        else:
            ours, said = claim.ours or claim.post_hoc, of[id_].verdict
        if said is not None and not ours:
            rows.append((claim, said))
    return rows


def standing(rows: Sequence[tuple[Claim, Verdict]]) -> str:
    """One of STANDINGS. Rows that have no value say nothing."""
    said = {verdict for _, verdict in rows if verdict not in ("not run", "not measurable")}
    if len(said) < 2:
        return next(iter(said), "not run")
    if "holds" in said:
        return IN_BOTH if "fails" in said else IN_SOME
    if "fails" in said:
        return FAILS_IN_SOME
    return "mixed" if "mixed" in said else UNDECIDED


def follows(rows: Sequence[tuple[Claim, Verdict]]) -> bool:
    """Whether every row that holds is expected to, whatever the methods do."""
    holding = [claim for claim, said in rows if said == "holds"]
    return bool(holding) and all(claim.follows_from for claim in holding)
