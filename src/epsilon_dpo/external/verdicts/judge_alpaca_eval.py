"""AlpacaEval 2: answers against GPT-4-turbo's, and the win rate corrected for length (Dubois et al., arXiv 2404.04475).

The judge names the better of two answers, shown in an order fixed by the instruction, in one token; a preference is the
probability of that token among the two names, so a judge that gives no log-probs cannot be used.
"""

import csv
from pathlib import Path

from epsilon_dpo.external.benchmarks.params import AlpacaEvalJudge
from epsilon_dpo.external.benchmarks.questions import ALPACA_EVAL_FILE
from epsilon_dpo.external.verdicts.tool import (
    Contest,
    Verdict,
    call,
    copied,
    environment_python,
    refuse_failed,
    version,
)
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, write_json

DRIVER = Path(__file__).with_name("alpaca_eval_driver.py")
DIFFICULTIES = "df_gamed.csv"
FAILED = "failed.json"  # of the last run of the tool, which asks anew for all that have no verdict
RESULTS = "annotations.json"  # written last, after the leaderboard, when all is judged
# Columns of the tool's leaderboard.csv, in percent, and what they are called here.
RATES = {
    "win_rate": "win_rate",
    "standard_error": "win_rate_se",
    "discrete_win_rate": "discrete_win_rate",
    "length_controlled_winrate": "lc_win_rate",
    "lc_standard_error": "lc_win_rate_se",
}


def alpaca_eval_files(data: Path, judge: AlpacaEvalJudge) -> list[Path]:
    """What the tool reads of `data`."""
    return [data / ALPACA_EVAL_FILE, *([data / DIFFICULTIES] if judge.length_controlled else [])]


def judge_alpaca_eval(contest: Contest[AlpacaEvalJudge]) -> Verdict:
    """Rates in percent; `lc_win_rate` is what papers report."""
    python = environment_python(contest.judge, "alpaca_eval")
    copied(contest.data / ALPACA_EVAL_FILE, contest.work / "reference_outputs.json")
    copied(contest.answers, contest.work / "model_outputs.json")
    difficulties = None
    if contest.judge.length_controlled:
        difficulties = str(contest.work / DIFFICULTIES)
        copied(contest.data / DIFFICULTIES, contest.work / DIFFICULTIES)
        _refuse_other_instructions(contest.work, contest.data)
    settings = {
        "name": contest.name,
        "model": contest.judge.model,
        "model_outputs": str(contest.work / "model_outputs.json"),
        "reference_outputs": str(contest.work / "reference_outputs.json"),
        "df_gamed": difficulties,
        "work": str(contest.work),
    }
    write_json(contest.work / "settings.json", settings)
    if None in _preferences(contest.work):
        call(python, [str(DRIVER), "settings.json"], contest)
        refuse_failed(len(read_json(contest.work / FAILED)), len(_preferences(contest.work)), contest)
    return read_results(contest.work, version(python, "alpaca-eval"))


def read_results(work: Path, tool: str) -> Verdict:
    """What the tool wrote into `work`, without the times and prices that it noted.

    Raises:
        UserError: the judge gave no verdict that can be read.
    """
    preferences = _preferences(work)
    missing = preferences.count(None)
    if missing == len(preferences):
        raise UserError(
            f"none of the judge's {missing} answers holds log-probs of the tokens m and M, so there is no verdict; use "
            f"a judge that returns top_logprobs. Its answers are in {work / RESULTS}."
        )
    rows = [
        {"instruction": row["instruction"], "preference": preference}
        for row, preference in zip(read_json(work / RESULTS), preferences, strict=True)
    ]
    with (work / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        (board,) = csv.DictReader(file)
    metrics = {ours: float(board[theirs]) for theirs, ours in RATES.items() if board.get(theirs)}
    metrics |= {"mean_characters": float(board["avg_length"])}
    metrics |= {"n": len(rows) - missing, "n_missing": missing, "n_asked": len(rows)}
    return Verdict(metrics, rows, tool)


def _preferences(work: Path) -> list[float | None]:
    """In [1, 2], 2 for the model's answer and 1 for the reference's; None before the tool ran, and where it failed.

    A file that a crash cut off counts as none: the tool writes it anew from its cache.
    """
    path = work / RESULTS
    try:
        return [row["preference"] for row in read_json(path)] if path.exists() else [None]
    except ValueError:
        return [None]


def _refuse_other_instructions(work: Path, data: Path) -> None:
    """The difficulties of df_gamed.csv belong to the official instructions by their place; nothing else checks that."""
    with (work / DIFFICULTIES).open(encoding="utf-8", newline="") as file:
        try:
            places = {int(row["index"]) for row in csv.DictReader(file)}
        except (KeyError, TypeError, ValueError, csv.Error):  # a page of the Hub's, a pointer of Git LFS
            raise UserError(
                f"external/{data / DIFFICULTIES} is no table with a column index; download the file itself, as "
                "docs/external.md says, or set judge.alpaca_eval.length_controlled to false."
            ) from None
    instructions = len(read_json(work / "reference_outputs.json"))
    if places != set(range(instructions)):
        raise UserError(
            f"{DIFFICULTIES} has the difficulties of {len(places)} instructions and {ALPACA_EVAL_FILE} has "
            f"{instructions} instructions; take both from the same release, or set "
            "judge.alpaca_eval.length_controlled to false for other instructions."
        )
