"""Every policy on one scale: what stage tournament found, where known by the truth and by the judge side by side."""

from epsilon_dpo.report.page.results import Results, Row
from epsilon_dpo.report.page.statements import SCORERS


def ranking(results: Results) -> list[Row]:
    """The rows of ranking.csv: one per scorer and policy, from the strongest to the weakest."""
    return [{"scorer": scorer, **row} for scorer, rows in _tables(results).items() for row in rows]


def side_by_side(results: Results) -> list[Row]:
    """One row per policy in the order of the first scorer: `policy`, `n` (prompts), `identical_share` of its games
    against other runs (None: there is no other) and `by`, its row by each scorer's name."""
    tables = {scorer: {row["policy"]: row for row in rows} for scorer, rows in _tables(results).items()}
    order = next(iter(tables.values()))
    return [
        {"policy": policy, "n": row["n"], "identical_share": row.get("identical_share")}
        | {"by": {scorer: rows[policy] for scorer, rows in tables.items()}}
        for policy, row in order.items()
    ]


def places(row: Row) -> str:
    """`2`, or `1–3` where the data leave that open."""
    first, last = row["place_first"], row["place_last"]
    return str(first) if first == last else f"{first}–{last}"


def _tables(results: Results) -> dict[str, list[Row]]:
    """The truth's first."""
    return {SCORERS[field]: results.ranking[field] for field in ("true_win", "win") if field in results.ranking}
