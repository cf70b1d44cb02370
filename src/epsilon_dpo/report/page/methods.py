"""Methods against each other, as far as several seeds of each were trained; runs of one seed compare two policies."""

from itertools import combinations

from epsilon_dpo.analysis.intervals.differences import of_each
from epsilon_dpo.analysis.intervals.rates import Estimate
from epsilon_dpo.report.page.groups import Group, groups, several_seeds
from epsilon_dpo.report.page.paired import holm, measured
from epsilon_dpo.report.page.results import Results, Row
from epsilon_dpo.report.page.statements import (
    APART,
    JUDGE,
    LISTED,
    SCORERS,
    TRUTH,
    WINS,
    agreement,
    ahead,
    is_decided,
    over_chosen,
)
from epsilon_dpo.report.page.tables import OPPONENTS
from epsilon_dpo.report.page.two_methods import difference


def method_comparisons(results: Results) -> list[Row]:
    """Every two groups with several seeds against each opponent by each scorer, pair by pair: method_comparisons.csv.

    Keys as in comparisons.csv, for all pairs of groups together that one opponent and one scorer compare; the intervals
    are over seeds and prompts. Also `seeds_first`, `seeds_second` and the difference's `training_share`.
    """
    pairs = list(combinations(several_seeds(results), 2))
    fields = SCORERS if results.has_truth else ("win",)
    columns = [_compared(results, pairs, opponent, field) for opponent in OPPONENTS for field in fields]
    return [row for rows in zip(*columns, strict=True) for row in rows]


def _compared(results: Results, pairs: list[tuple[Group, Group]], opponent: str, field: str) -> list[Row]:
    found = [difference(one.wins(opponent, field), other.wins(opponent, field)) for one, other in pairs]
    adjusted = holm([one.p_value for one in found])
    each, rows = of_each(results.confidence, len(pairs)), []
    for (one, other), apart, p_holm in zip(pairs, found, adjusted, strict=True):
        alone, together = (
            Estimate(apart.value, *apart.interval(level), apart.prompts) for level in (results.confidence, each)
        )
        rows.append(
            {
                "first": one.name,
                "second": other.name,
                "seeds_first": len(one.runs),
                "seeds_second": len(other.runs),
                "opponent": opponent,
                "scorer": SCORERS[field],
                **measured(alone, together, apart.p_value, p_holm),
                "training_share": apart.training_share,
            }
        )
    return rows


def method_statements(results: Results, compared: list[Row]) -> list[str]:
    """What the comparisons say of methods, or why they say nothing; none where there is nothing to compare."""
    found, several = groups(results.runs), several_seeds(results)
    if len(found) < 2:
        return []
    if not several:
        return [
            "Every run is one training, so these sentences compare policies and not methods. To repeat a training, "
            "add a run with the same config and another seed."
        ]
    if len(several) == 1:
        return [f"Only {several[0].label}, is more than one training: what is said of the others compares policies."]
    trained = ", ".join(f"{len(group.runs)} seeds of {group.name}" for group in several)
    by = {scorer: over_chosen(compared, scorer) for scorer in (TRUTH, JUDGE)}
    said = {scorer: _among_methods(rows, WINS[scorer], trained, results) for scorer, rows in by.items() if rows}
    if len(said) == 2:
        said[JUDGE] += f" {agreement(by[TRUTH], by[JUDGE])}"
    return list(said.values())


def _among_methods(rows: list[Row], wins: str, trained: str, results: Results) -> str:
    basis = (
        f"by their {wins} over the chosen answers ({trained}; {100 * results.confidence:g} % confidence for all "
        "pairs together, for other seeds and other prompts)"
    )
    apart = [row for row in rows if is_decided(row)]
    alike = [row for row in rows if not is_decided(row)]
    if not apart:
        return f"No two methods can be told apart {basis}{_what_it_takes(alike)}."
    if len(rows) > LISTED:
        return f"{len(apart)} of {len(rows)} pairs of methods can be told apart {basis}; a table below says which."
    parts = [ahead(row) for row in apart] + [f"{row['first']} and {row['second']} {APART}" for row in alike]
    return f"Method against method, {basis}: {'; '.join(parts)}."


def _what_it_takes(alike: list[Row]) -> str:
    """Of which of the two that a difference averages over there are too few."""
    by_training = sum(row["training_share"] for row in alike) / len(alike)
    return f", for which more {'seeds' if by_training > 0.5 else 'prompts'} would do most"
