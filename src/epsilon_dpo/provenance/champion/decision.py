"""Whether a policy becomes the champion, by what the report's summary.json says and nothing else.

Against a champion it is the comparison of the report's sentences: wins over the chosen answers, by the true reward
where it is known and else by the judge, on the same prompts, with the interval that holds for all pairs of runs
together. So it makes no difference how many runs were tried in this report before one was promoted. Without a champion
a policy has to beat the reference that it started from: the interval of its win rate against SFT lies above one half.
"""

from dataclasses import dataclass

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Json
from epsilon_dpo.pipeline.stage.runs import CHOSEN, SFT
from epsilon_dpo.report.page.statements import APART, JUDGE, TRUTH, WINS
from epsilon_dpo.report.style.signs import fixed, percent

SUMMARY = "out/report/summary.json"


@dataclass(frozen=True)
class Decision:
    """What was found.

    Attributes:
        promoted: whether the policy becomes the champion.
        sentence: with the numbers, without a full stop.
        facts: the same for machines, by name; differences in points of a win rate divided by 100.
    """

    promoted: bool
    sentence: str
    facts: dict[str, str]


def name_of(summary: Json, sha256: str) -> str | None:
    """The run of the report that has this policy."""
    return next((name for name, run in summary["runs"].items() if run["policy_sha256"] == sha256), None)


def decide(summary: Json, run: str, incumbent: str | None) -> Decision:
    """Whether `run` becomes the champion in place of the run `incumbent` (None: there is no champion).

    Args:
        summary: content of out/report/summary.json, which compares both.

    Raises:
        UserError: the report does not compare the two.
    """
    scorer = TRUTH if summary["true_reward"] else JUDGE
    return _against_sft(summary, run, scorer) if incumbent is None else _against(summary, run, incumbent, scorer)


def _against(summary: Json, run: str, incumbent: str, scorer: str) -> Decision:
    rows = (row for row in summary["comparisons"] if (row["opponent"], row["scorer"]) == (CHOSEN, scorer))
    row = next((row for row in rows if {row["first"], row["second"]} == {run, incumbent}), None)
    if row is None:
        raise UserError(f"{SUMMARY} does not compare {run} with {incumbent} by the {scorer}; run `dvc repro`.")
    sign = 1.0 if row["first"] == run else -1.0
    low, high = sorted((sign * row["low_together"], sign * row["high_together"]))
    difference = sign * row["difference"]
    ahead = row["outcome"] == ("better" if sign > 0.0 else "worse")
    verdict = "cannot be told from" if row["outcome"] == APART else "is better than" if ahead else "is worse than"
    sentence = (
        f"{run} {verdict} the champion {incumbent}: {_points(difference, plus=True)} points ({_points(low)} to "
        f"{_points(high)}) of {WINS[scorer]} over the chosen answers, {_basis(summary)} for all pairs of runs "
        f"together, {row['n']} prompts"
    )
    facts = {
        "difference": f"{difference:.6g}",
        "p_holm": f"{row['p_holm']:.6g}",
        "opponent": CHOSEN,
        "n": str(row["n"]),
    }
    return Decision(ahead, sentence, facts | _facts(summary, scorer, incumbent, low, high))


def _against_sft(summary: Json, run: str, scorer: str) -> Decision:
    metric = f"{'true_win_rate' if scorer == TRUTH else 'win_rate'}/{SFT}"
    value, low, high = (summary["runs"][run][f"{metric}{end}"] for end in ("", "_low", "_high"))
    verdict = "beats" if low > 0.5 else "loses to" if high < 0.5 else "cannot be told from"
    sentence = (
        f"{run} {verdict} SFT, which the first champion has to beat: it won {percent(value)} ({percent(low)} to "
        f"{percent(high)}) by the {scorer}, {_basis(summary)}, {summary['runs'][run]['n']} answers"
    )
    facts = {"win_rate": f"{value:.6g}", "opponent": SFT, "n": str(summary["runs"][run]["n"])}
    return Decision(low > 0.5, sentence, facts | _facts(summary, scorer, SFT, low, high))


def _facts(summary: Json, scorer: str, against: str, low: float, high: float) -> dict[str, str]:
    shared = {"against": against, "scorer": scorer, "confidence": f"{summary['confidence']:g}"}
    return shared | {"low": f"{low:.6g}", "high": f"{high:.6g}"}


def _basis(summary: Json) -> str:
    return f"{100 * summary['confidence']:g} % confidence"


def _points(difference: float, plus: bool = False) -> str:
    return fixed(100 * difference, 1, plus)
