"""Every policy on one scale: what stage tournament found, by the judge and where known by the truth side by side."""

from epsilon_dpo.report.page.results import Results, Row
from epsilon_dpo.report.page.statements import SCORERS


def ranking(results: Results) -> list[Row]:
    """The rows of ranking.csv: one per scorer and policy, from the strongest to the weakest."""
    return [{"scorer": scorer, **row} for scorer, rows in _tables(results).items() for row in rows]


def side_by_side(results: Results) -> list[Row]:
    """One row per policy in the judge's order: `policy`, `n` (prompts) and `by`, its row by the name of each scorer."""
    tables = {scorer: {row["policy"]: row for row in rows} for scorer, rows in _tables(results).items()}
    return [
        {"policy": row["policy"], "n": row["n"], "by": {scorer: rows[row["policy"]] for scorer, rows in tables.items()}}
        for row in results.ranking["win"]
    ]


def _tables(results: Results) -> dict[str, list[Row]]:
    return {scorer: results.ranking[field] for field, scorer in SCORERS.items() if field in results.ranking}
