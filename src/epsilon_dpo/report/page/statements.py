"""What the results say, as sentences: which differences lie outside their intervals and which do not.

A pair of runs is compared on the same prompts (report/page/paired.py). What a sentence says and the interval in it hold
for all runs, or all pairs of runs, that one opponent and one scorer compare, together. Where the true reward is known,
what it says stands first; then what the judge says, and whether the two agree.
"""

from epsilon_dpo.analysis.intervals.differences import of_each
from epsilon_dpo.pipeline.stage.runs import CHOSEN, SFT
from epsilon_dpo.report.page.groups import Group
from epsilon_dpo.report.page.paired import measured, verdicts
from epsilon_dpo.report.page.results import Results, Row, RunResult
from epsilon_dpo.report.page.tables import OPPONENTS

NAMES = {CHOSEN: "the chosen answers", SFT: "SFT"}
JUDGE, TRUTH = "judge", "true reward"
SCORERS = {"win": JUDGE, "true_win": TRUTH}
WINS = {JUDGE: "judged wins", TRUTH: "true wins"}
APART = "cannot be told apart"
POWER = 0.8  # of the test at the stated number of prompts needed
LISTED = 3  # pairs of runs in one sentence, and runs where they could be counted instead


def comparisons(results: Results) -> list[Row]:
    """Every two runs against each opponent by each scorer, pair by pair.

    Keys: first, second, opponent, scorer, difference (of mean wins, first - second), its interval for all pairs
    together (low_together, high_together) and for this pair alone (low, high), n (prompts), p, p_holm, outcome
    (`better`, `worse`: first than second, where the interval for all pairs together leaves out 0 and the exact test
    decides, too; else `cannot be told apart`), n_needed (prompts that would decide a difference of this size; empty if
    there is none).
    """
    if len(results.runs) < 2:
        return []
    fields = SCORERS if results.has_truth else ("win",)
    columns = [_compared(results, opponent, field) for opponent in OPPONENTS for field in fields]
    return [row for rows in zip(*columns, strict=True) for row in rows]


def _compared(results: Results, opponent: str, field: str) -> list[Row]:
    records = {run.name: run.verdicts(opponent) for run in results.runs}
    ids = list(next(iter(records.values())))
    prompts = [next(iter(records.values()))[id_]["prompt_id"] for id_ in ids]
    wins = {name: [own[id_][field] for id_ in ids] for name, own in records.items()}
    return [
        {
            "first": found.first,
            "second": found.second,
            "opponent": opponent,
            "scorer": SCORERS[field],
            **measured(found.difference, found.together, found.p_value, found.p_adjusted),
            "n_needed": found.n_needed,
        }
        for found in verdicts(wins, prompts, results.confidence, POWER)
    ]


def statements(results: Results, compared: list[Row]) -> list[str]:
    """One sentence per opponent about the runs, and per scorer about the runs among each other; before them, that there
    was no SFT."""
    found = [] if results.has_sft else [f"No SFT: the reference, which is called SFT on this page, is {results.base}."]
    found += [_against(results, opponent) for opponent in (SFT, CHOSEN)]
    by = {scorer: over_chosen(compared, scorer) for scorer in (TRUTH, JUDGE)}
    said = {scorer: _among_runs(results, rows, WINS[scorer]) for scorer, rows in by.items() if rows}
    if len(said) == 2:
        said[JUDGE] += f" {agreement(by[TRUTH], by[JUDGE])}"
    return found + list(said.values())


def over_chosen(compared: list[Row], scorer: str) -> list[Row]:
    """The comparisons that sentences speak of: of wins over the chosen answers, as in the paper."""
    return [row for row in compared if row["opponent"] == CHOSEN and row["scorer"] == scorer]


def agreement(truth: list[Row], judged: list[Row]) -> str:
    """Whether the judge tells apart what the true reward tells apart, and the same way round."""
    by_truth, by_judge = ({_pair(row): row["outcome"] for row in rows if is_decided(row)} for rows in (truth, judged))
    if by_truth == by_judge:
        return "The true reward says the same."
    contrary = [pair for pair in by_judge if pair in by_truth and by_judge[pair] != by_truth[pair]]
    alone = [pair for pair in by_judge if pair not in by_truth]
    missed = [pair for pair in by_truth if pair not in by_judge]
    parts = [f"The true reward says the opposite of {_pairs(contrary)}."] if contrary else []
    if alone:
        parts.append(f"The true reward does not confirm that for {_pairs(alone)}: it cannot tell them apart.")
    if missed:
        parts.append(f"The judge misses what the true reward says of {_pairs(missed)}.")
    return " ".join(parts)


def _pair(row: Row) -> tuple[str, str]:
    return row["first"], row["second"]


def _pairs(pairs: list[tuple[str, str]]) -> str:
    if len(pairs) > LISTED:
        return f"{len(pairs)} pairs"
    return "; ".join(f"{first} and {second}" for first, second in pairs)


def _among_runs(results: Results, rows: list[Row], wins: str) -> str:
    """Pair by pair while they can be read in one sentence, else how many."""
    basis = (
        f"by their {wins} over the chosen answers ({results.n} answers, {100 * results.confidence:g} % confidence "
        "for all pairs together"
    )
    alike = [row for row in rows if not is_decided(row)]
    if len(alike) == len(rows) == 1:
        return f"{rows[0]['first']} and {rows[0]['second']} {APART} {basis}{_needed(results, alike, '; ')})."
    if len(alike) == len(rows):
        return f"No two of the {len(results.runs)} runs can be told apart {basis}{_needed(results, alike, '; ')})."
    if len(rows) > LISTED:
        apart = len(rows) - len(alike)
        return f"{apart} of {len(rows)} pairs of runs can be told apart {basis}); the table below says which."
    parts = [ahead(row) for row in rows if is_decided(row)]
    parts += [f"{row['first']} and {row['second']} {APART}{_needed(results, [row], ' (', ')')}" for row in alike]
    return f"Run against run, {basis}): {'; '.join(parts)}."


def _needed(results: Results, alike: list[Row], before: str, after: str = "") -> str:
    """How many prompts the clearest of these differences would take if it were the true one, or nothing; where the data
    are known to have fewer, what there is to do instead."""
    needed = min((row["n_needed"] for row in alike if row["n_needed"] is not None), default=None)
    if needed is None:
        return ""
    which = "the clearest of these differences" if len(alike) > 1 else "a difference of this size"
    said = f"{before}{which}, if it is the true one, would show in {100 * POWER:g} % of reports "
    said += f"on about {needed:,} prompts"
    there = sum(results.dataset.get("prompts", {}).values())  # of generated data, in both splits
    if there and needed > there:
        said += f", and the data have {there:,}: raise sample.samples_per_prompt, which takes out noise, too"
    return said + after


def is_decided(row: Row) -> bool:
    """Whether the two are told apart, all pairs together."""
    return bool(row["outcome"] != APART)


def _against(results: Results, opponent: str) -> str:
    """Which runs beat, lose to, or cannot be told from `opponent`, by the truth, where it is known, and the judge."""
    scorers: dict[str, list[str]] = {}
    for field in ("true_win", "win") if results.has_truth else ("win",):
        sides: dict[str, list[str]] = {}
        for run in results.runs:
            sides.setdefault(_side(results, run, opponent, field), []).append(run.name)
        scorers.setdefault(_verdicts(sides, len(results.runs)), []).append(f"by the {SCORERS[field]}")
    parts = [f"{_listed(who)}, {verdict}" for verdict, who in scorers.items()]
    together = f" ({100 * results.confidence:g} % confidence for all runs together)" if len(results.runs) > 1 else ""
    return f"Against {NAMES[opponent]}: {'; '.join(parts)}{together}."


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
    if len(runs) < total or total == 1:
        return _listed(runs)
    return "both runs" if total == 2 else f"all {total} runs"


def _side(results: Results, run: RunResult, opponent: str, field: str) -> str:
    """On which side of one half the run's win rate is, by an interval that holds for all runs together: of 36 that are
    as good as SFT, the intervals of each would place at least one above or below in two reports of three."""
    rate = Group(run.name, [run]).over_prompts(opponent, field, of_each(results.confidence, len(results.runs)))
    return "above" if rate.low > 0.5 else "below" if rate.high < 0.5 else "within"


def ahead(row: Row) -> str:
    """`a is ahead of b by 4.3 points (1.6 to 7.4)`, of a row that is decided; the interval is that for all pairs."""
    ahead, behind = ("first", "second") if row["difference"] > 0.0 else ("second", "first")
    low, high = sorted((abs(row["low_together"]), abs(row["high_together"])))
    points = f"{100 * abs(row['difference']):.1f} points ({100 * low:.1f} to {100 * high:.1f})"
    return f"{row[ahead]} is ahead of {row[behind]} by {points}"


def _listed(items: list[str]) -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
