"""Arena-Hard: answers against a baseline's, judged in both orders (Li et al., arXiv 2406.11939).

The settings are the checkout's own file with the judge and the model replaced, so that the question set, the prompt and
its patterns, and with them the tool's version, are the user's choice: a checkout of 2024 works as one of today does.
"""

import hashlib
import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path

from epsilon_dpo.external.benchmarks.params import ArenaHardJudge
from epsilon_dpo.external.benchmarks.questions import QUESTION_FILE, read_questions
from epsilon_dpo.external.benchmarks.schemas import Row
from epsilon_dpo.external.verdicts.tool import (
    Contest,
    Verdict,
    call,
    copied,
    environment_python,
    kept_rows,
    refuse_failed,
    replace_rows,
)
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import write_json
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.params import read_yaml

CHECKOUT = "arena-hard-auto"
ASKING = ("gen_judgment", "utils")  # its files that ask a judge, beside the settings
FAILED = "$ERROR$"  # ends a verdict of the tool of 2024 after 16 failed calls; today's has no game then
# What assistant A has won by a label; a label with two signs counts three times, as upstream.
WON_BY_A = {"A>>B": [1.0] * 3, "A>B": [1.0], "A=B": [0.5], "B>A": [0.0], "B>>A": [0.0] * 3}
SAME_LABEL = {"B=A": "A=B", "A<B": "B>A", "A<<B": "B>>A", "B<A": "A>B", "B<<A": "A>>B"}


def arena_hard_files(data: Path, judge: ArenaHardJudge) -> list[Path]:
    """What the tool reads of `data`; which of the answers are the baseline's is known to the checkout alone."""
    return [data / QUESTION_FILE, *sorted((data / "model_answer").glob("*.jsonl"))]


def judge_arena_hard(contest: Contest[ArenaHardJudge]) -> Verdict:
    """`win_rate` in percent, over both games of each question."""
    python = environment_python(contest.judge, "arena_hard")
    checkout = Path(contest.judge.environment).absolute() / CHECKOUT
    if not (checkout / contest.judge.setting_file).is_file():
        raise UserError(
            f"{checkout} holds no {contest.judge.setting_file}; make the environment again or fix "
            "judge.arena_hard.setting_file in external/params.yaml."
        )
    settings = read_yaml(checkout / contest.judge.setting_file)
    version = version_of(checkout, contest.judge.setting_file)
    contest = replace(contest, work=contest.work / version)  # other commits have other prompts
    bench = contest.work / "data" / str(settings["bench_name"])
    for file in arena_hard_files(contest.data, contest.judge):
        copied(file, bench / file.relative_to(contest.data))
    copied(contest.answers, bench / "model_answer" / f"{contest.name}.jsonl")
    model = contest.judge.model
    write_json(contest.work / "settings.json", settings | {"judge_model": model, "model_list": [contest.name]})
    # No endpoints: the tool's client then reads address and key from its environment, and no file holds the key.
    endpoint = {"model": model, "model_name": model, "endpoints": None, "api_type": "openai"}
    write_json(contest.work / "endpoint.json", {model: endpoint | {"parallel": contest.judge.parallel}})
    verdicts = bench / "model_judgment" / model / f"{contest.name}.jsonl"
    questions = [question.id for question in read_questions("arena_hard", contest.data)]
    rows = _complete(verdicts, questions)
    asked = {_id(row) for row in kept_rows(verdicts)}  # also those that the judge's endpoint failed on
    if not asked.issuperset(questions) or len(questions) - len(rows) > contest.judge.most_failed:
        replace_rows(verdicts, rows)  # the tool skips what it finds in the file, also a question with a failed game
        files = ["--setting-file", "settings.json", "--endpoint-file", "endpoint.json"]  # JSON is YAML too
        call(python, [str(checkout / "gen_judgment.py"), *files], contest)
        rows = _complete(verdicts, questions)
    failed = len(questions) - len(rows)
    refuse_failed(failed, len(questions), contest)
    return Verdict(score(rows, failed), rows, f"{CHECKOUT} {version}")


def score(rows: list[Row], failed: int = 0) -> dict[str, float]:
    """The share of points won, which upstream's bootstrap is centred at; questions are the units of its error.

    Args:
        rows: per question, `games`: first with the model as assistant B, then as A.
        failed: questions beside them that the endpoint failed on.

    Returns:
        `win_rate` and `win_rate_se` in percent, `n`, the questions that count, `n_missing`, the others, and `n_asked`,
        all of them.

    Raises:
        UserError: no question counts.
    """
    points = [found for row in rows if (found := _points(row))]
    asked = len(rows) + failed
    metrics: dict[str, float] = {"n": len(points), "n_missing": asked - len(points), "n_asked": asked}
    if not points:
        raise UserError(f"none of the judge's verdicts on {len(rows)} questions holds a label such as [[A>B]].")
    weight = sum(map(len, points))
    rate = sum(map(sum, points)) / weight
    metrics["win_rate"] = 100 * rate
    if len(points) > 1:  # of a ratio of two sums over questions, linearised
        squares = sum((sum(won) - rate * len(won)) ** 2 for won in points)
        metrics["win_rate_se"] = 100 * math.sqrt(squares * len(points) / (len(points) - 1)) / weight
    return metrics


def _points(row: Row) -> list[float]:
    """What the model has won on a question; nothing if it does not count.

    As upstream's show_result.py, a question does not count if one of its labels is missing; that of 2024 (b00effb)
    leaves out the game alone, and so it does with a label of SAME_LABEL.
    """
    of_2024 = "question_id" in row
    labels = [game["score"] for game in row["games"]]
    first, second = (WON_BY_A.get(label if of_2024 else SAME_LABEL.get(label, label)) for label in labels)
    if not of_2024 and (first is None or second is None):
        return []
    return (second or []) + [1.0 - won for won in first or []]


def _complete(path: Path, questions: list[str]) -> list[Row]:
    """The judged questions in their order; those with a game that the judge's endpoint failed on are left out."""
    found = {}
    for row in kept_rows(path):
        if len(row["games"]) == 2 and not any(map(_failed, row["games"])):
            found[_id(row)] = row
    return [found[id_] for id_ in questions if id_ in found]


def _id(row: Row) -> str:
    return str(row.get("uid", row.get("question_id")))


def _failed(game: Row | None) -> bool:
    return game is None or (game["score"] is None and str(game.get("judgment")).endswith(FAILED))


def version_of(checkout: Path, setting_file: str) -> str:
    """The first seven characters of the checkout's commit, or of its content's hash: another version has other prompts.

    Within another repository, the project's say, a copy without a .git of its own has the commit of that one. And where
    somebody has edited what asks the judge, or has a setting file of his own, that is in no commit.
    """
    settings = checkout / setting_file
    files = [*sorted(checkout.glob("*.py")), *sorted(checkout.glob("utils/*.py")), settings]
    names = [str(file.relative_to(checkout) if file.is_relative_to(checkout) else file) for file in files]
    said = _git(checkout, "rev-parse", "--show-toplevel", "HEAD")
    is_own = len(said) == 2 and Path(said[0]).resolve() == checkout.resolve()
    is_inside = settings.resolve().is_relative_to(checkout.resolve())
    asking = [*(name for name in names if name.startswith(ASKING)), names[-1]]
    if is_own and is_inside and not _git(checkout, "status", "--porcelain", "--ignored", "--", *asking):
        return said[1][:7]
    content = json.dumps([[name, digest(file)] for name, file in zip(names, files, strict=True)])
    return f"copy-{hashlib.sha256(content.encode()).hexdigest()[:7]}"


def _git(checkout: Path, *arguments: str) -> list[str]:
    """The lines that git prints; none where it fails."""
    command = ["git", "--no-optional-locks", "--literal-pathspecs", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
