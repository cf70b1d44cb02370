"""How the judge came to its win rates: each policy against each opponent, by every way of counting (scoring.py)."""

from typing import NamedTuple

from epsilon_dpo.pipeline.stage.runs import CHOSEN, SFT
from epsilon_dpo.report.page.results import Results, Row
from epsilon_dpo.report.page.tables import OPPONENTS

ENDS = ("", "_low", "_high", "_n")
COST = (
    "judge_questions",
    "judge_input_tokens",
    "judge_output_tokens",
    "judge_cost_usd",
    "judge_uncounted_questions",
)


class Column(NamedTuple):
    """A column of the page's table.

    Attributes:
        heading: its two lines.
        shown: a rate with its interval, an index (1 is the most) with its interval, a share, or a number of nats.
        always: whether it is there also if it is 0 in every row.
    """

    key: str
    heading: tuple[str, str]
    shown: str
    always: bool = True


COLUMNS = (
    Column("win_rate", ("win", "rate"), "rate"),
    Column("lc_win_rate", ("at equal", "length"), "rate"),
    Column("similar_length_win_rate", ("of similar", "length"), "rate"),
    Column("consistent_win_rate", ("both orders", "or a tie"), "rate"),
    Column("untruncated_win_rate", ("of answers", "not cut"), "rate"),
    Column("consistency", ("orders", "agree"), "share"),
    Column("flip_rate", ("swapping", "flips"), "rate"),
    Column("truth_kappa", ("κ with", "the truth"), "index"),
    Column("position_bias", ("first place", "gains, nats"), "nats"),
    Column("tie_share", ("ties", ""), "share"),
    Column("truncated_share", ("not seen", "in full"), "share", always=False),
    Column("refused_share", ("refused", ""), "share", always=False),
)


def judging(results: Results) -> list[Row]:
    """The rows of judging.csv: `policy`, `opponent`, and the values of COLUMNS as far as they exist."""
    found = [_row(SFT, CHOSEN, results.controls, "sft_vs_chosen")]
    return found + [_row(run.name, opponent, run.score, opponent) for run in results.runs for opponent in OPPONENTS]


def columns(rows: list[Row]) -> list[Column]:
    """Those that say something here: in some row, and not 0 in all of them unless 0 is news."""
    return [
        column for column in COLUMNS if any(column.key in row and (column.always or row[column.key]) for row in rows)
    ]


def cost(results: Results) -> list[Row]:
    """What the judgement of each run took, that of stages, and what policies learned from, for a judge or a teacher
    that is asked over a network; empty for others."""
    whose = "" if results.teacher is None else ", the teacher"
    took = [(run.name, run.score) for run in results.runs]
    took += [
        ("stage judge", results.judged),
        ("stage judge, the teacher", results.teacher or {}),
        (f"stage ranking{whose}", results.ranking_usage),
        (f"stage margins{whose}", results.margins_usage),
        ("stage controls", results.controls),
        ("stage tournament", results.tournament_usage),
    ]
    rows = [{"run": name} | {key: metrics[key] for key in COST if key in metrics} for name, metrics in took]
    return [row for row in rows if len(row) > 1]


def _row(policy: str, opponent: str, metrics: Row, at: str) -> Row:
    values = {
        column.key + end: metrics[f"{column.key}/{at}{end}"]
        for column in COLUMNS
        for end in ENDS
        if f"{column.key}/{at}{end}" in metrics
    }
    return {"policy": policy, "opponent": opponent, **values}
