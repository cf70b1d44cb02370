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
    level = f"{results.confidence:.0%}"
    found = [_against(results, opponent) for opponent in ("sft", "chosen")]
    judged = [row for row in compared if row["opponent"] == "chosen" and row["scorer"] == "judge"]
    alike = [f"{row['first']} and {row['second']}" for row in judged if row["low"] <= 0.0 <= row["high"]]
    apart = [_ahead(row) for row in judged if not row["low"] <= 0.0 <= row["high"]]
    if apart:
        found.append(f"Against the chosen answers, on the same {results.n} prompts, {_listed(apart)}.")
    if alike:
        plural = "s" if len(alike) > 1 else ""
        found.append(f"At n = {results.n} the pair{plural} {_listed(alike)} cannot be told apart at the {level} level.")
    return found


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
    parts = []
    for metric, scorer in (("win_rate", "judge"), ("true_win_rate", "true reward")):
        if metric == "true_win_rate" and not results.has_truth:
            continue
        groups: dict[str, list[str]] = {}
        for run in results.runs:
            groups.setdefault(_side(run.score, f"{metric}/{opponent}"), []).append(run.name)
        verdicts = [f"{_listed(groups[side])} {phrase}" for side, phrase in _PHRASES.items() if side in groups]
        parts.append(f"by the {scorer}, {_listed(verdicts)}")
    return f"Against {NAMES[opponent]}: {'; '.join(parts)}."


_PHRASES = {
    "above": "won more often than lost",
    "below": "lost more often than won",
    "within": "cannot be told from it",
}


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
