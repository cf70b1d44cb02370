"""What the numbers say, in words: which differences lie outside their intervals and which do not.

A pair of runs is compared on the same prompts: the interval is that of the mean difference of their wins, which is
narrower than comparing two intervals by eye where the prompts decide much of the outcome. No correction for the number
of comparisons is made, and the page says so.
"""

from itertools import combinations

from epsilon_dpo.report.results import Results, Row, RunResult
from epsilon_dpo.report.tables import OPPONENTS
from epsilon_dpo.statistics import mean

NAMES = {"chosen": "the chosen answers", "sft": "SFT"}
SCORERS = {"win": "judge", "true_win": "true reward"}
LISTED = 3  # pairs of runs in one sentence, and runs where they could be counted instead


def comparisons(results: Results) -> list[Row]:
    """Every two runs against each opponent by each scorer: mean difference of `win` over the same prompts.

    Keys: first, second, opponent, scorer, difference (first - second), low, high, n.
    """
    return [
        _difference(first, second, opponent, field, results.confidence)
        for first, second in combinations(results.runs, 2)
        for opponent in OPPONENTS
        for field in (SCORERS if results.has_truth else ("win",))
    ]


def statements(results: Results, compared: list[Row]) -> list[str]:
    """One sentence per opponent about the runs, one about the runs among each other."""
    found = [_against(results, opponent) for opponent in ("sft", "chosen")]
    judged = [row for row in compared if row["opponent"] == "chosen" and row["scorer"] == "judge"]
    return found + ([_among_runs(results, judged)] if judged else [])


def _among_runs(results: Results, judged: list[Row]) -> str:
    """Pair by pair while they can be read in one sentence, else how many."""
    basis = (
        f"by their judged wins over the chosen answers ({results.n} prompts, {100 * results.confidence:g} % intervals)"
    )
    alike = [row for row in judged if not is_decided(row)]
    if len(alike) == len(judged) == 1:
        return f"{judged[0]['first']} and {judged[0]['second']} cannot be told apart {basis}."
    if len(alike) == len(judged):
        return f"No two of the {len(results.runs)} runs can be told apart {basis}."
    if len(judged) > LISTED:
        apart = len(judged) - len(alike)
        by_chance = round((1.0 - results.confidence) * len(judged))
        chance = f" (about {by_chance} would be, by chance, if all runs were alike)" if by_chance else ""
        return f"{apart} of {len(judged)} pairs of runs can be told apart {basis}{chance}; the table below says which."
    parts = [_ahead(row) for row in judged if is_decided(row)]
    parts += [f"{row['first']} and {row['second']} cannot be told apart" for row in alike]
    return f"Run against run, {basis}: {'; '.join(parts)}."


def is_decided(row: Row) -> bool:
    """Whether the interval of a comparison leaves out zero."""
    return not row["low"] <= 0.0 <= row["high"]


def _difference(first: RunResult, second: RunResult, opponent: str, field: str, confidence: float) -> Row:
    mine, theirs = first.verdicts(opponent), second.verdicts(opponent)
    estimate = mean([record[field] - theirs[key][field] for key, record in mine.items()], confidence)
    return {
        "first": first.name,
        "second": second.name,
        "opponent": opponent,
        "scorer": SCORERS[field],
        "difference": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
    }


def _against(results: Results, opponent: str) -> str:
    """Which runs beat, lose to, or cannot be told from `opponent`, by the judge and where known by the truth."""
    scorers: dict[str, list[str]] = {}
    for metric, scorer in (("win_rate", "judge"), ("true_win_rate", "true reward")):
        if metric == "true_win_rate" and not results.has_truth:
            continue
        groups: dict[str, list[str]] = {}
        for run in results.runs:
            groups.setdefault(_side(run.score, f"{metric}/{opponent}"), []).append(run.name)
        scorers.setdefault(_verdicts(groups, len(results.runs)), []).append(f"by the {scorer}")
    parts = [f"{_listed(who)}, {verdict}" for verdict, who in scorers.items()]
    return f"Against {NAMES[opponent]}: {'; '.join(parts)}."


_PHRASES = {
    "above": "won more often than lost",
    "below": "lost more often than won",
    "within": "cannot be told from it",
}


def _verdicts(groups: dict[str, list[str]], total: int) -> str:
    """Which runs are on which side of one half; of several groups a long one is not listed but counted, at the end."""
    longest = max(groups, key=lambda side: len(groups[side]))
    rest = longest if len(groups) > 1 and len(groups[longest]) > LISTED else None
    named = [f"{_named(groups[side], total)} {_PHRASES[side]}" for side in _PHRASES if side in groups and side != rest]
    return _listed(named + ([f"the other {len(groups[rest])} runs {_PHRASES[rest]}"] if rest else []))


def _named(runs: list[str], total: int) -> str:
    return f"all {total} runs" if len(runs) == total > 1 else _listed(runs)


def _side(score: Row, name: str) -> str:
    if score[f"{name}_low"] > 0.5:
        return "above"
    return "below" if score[f"{name}_high"] < 0.5 else "within"


def _ahead(row: Row) -> str:
    ahead, behind = ("first", "second") if row["difference"] > 0.0 else ("second", "first")
    low, high = sorted((abs(row["low"]), abs(row["high"])))
    points = f"{100 * abs(row['difference']):.1f} points ({100 * low:.1f} to {100 * high:.1f})"
    return f"{row[ahead]} is ahead of {row[behind]} by {points}"


def _listed(items: list[str]) -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
