"""The verdicts on several runs on one page and as a tidy table."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from epsilon_dpo.external.benchmarks.params import Runs
from epsilon_dpo.pipeline.stage.files import read_json, write_csv

TEMPLATE = "scoreboard.html.jinja"
# Per benchmark: its title, what its scores mean, its columns, what counts as missing, and under which judge and on how
# many questions published verdicts were made.
BENCHMARKS: dict[str, dict[str, Any]] = {
    "alpaca_eval": {
        "title": "AlpacaEval 2",
        "meaning": "Win rates against GPT-4-turbo's answers, in percent; LC is corrected for length.",
        "columns": {"lc_win_rate": "LC win rate", "win_rate": "win rate", "mean_characters": "characters"},
        "missing": "without verdict",
        "judge": "gpt-4-1106-preview",
        "questions": 805,
    },
    "arena_hard": {
        "title": "Arena-Hard",
        "meaning": "Win rate against the baseline's answers in both orders, in percent; a clear win counts threefold.",
        "columns": {"win_rate": "win rate"},
        "missing": "without verdict",
        "judge": "gpt-4-1106-preview",
        "questions": 500,
    },
    "mt_bench": {
        "title": "MT-Bench",
        "meaning": "Grades from 1 to 10, averaged over questions and turns.",
        "columns": {"score": "score", "score/turn_1": "first turn", "score/turn_2": "second turn"},
        "missing": "turns without verdict",
        "judge": "gpt-4",
        "questions": 80,
    },
}


def read_verdicts(folder: Path, runs: Runs) -> list[dict[str, Any]]:
    """`metrics` of each run with its `run`, `policy` and `benchmark`."""
    return [
        {"run": name, **run.model_dump(), **read_json(folder / name / "metrics.json")} for name, run in runs.items()
    ]


def write_scoreboard(verdicts: list[dict[str, Any]], out: Path) -> None:
    """scoreboard.html, and scores.csv with one line per run and number."""
    facts = ("run", "policy", "benchmark", "judge", "tool")
    scores = (
        {fact: verdict[fact] for fact in facts} | {"score": name, "value": value}
        for verdict in verdicts
        for name, value in verdict.items()
        if isinstance(value, int | float)
    )
    write_csv(out / "scores.csv", scores, [*facts, "score", "value"])
    (out / "scoreboard.html").write_text(_page(verdicts), "utf-8")


def _page(verdicts: list[dict[str, Any]]) -> str:
    environment = Environment(
        loader=PackageLoader("epsilon_dpo.external.scoreboard", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:.2f}"
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    tables = [
        {"rows": rows, "differences": _differences(rows, texts["judge"], texts["questions"]), **texts}
        for benchmark, texts in BENCHMARKS.items()
        if (rows := [verdict for verdict in verdicts if verdict["benchmark"] == benchmark])
    ]
    return environment.get_template(TEMPLATE).render(tables=tables)


def _differences(rows: list[dict[str, Any]], judge: str, questions: int) -> list[str]:
    """Why some of `rows` cannot be compared with published numbers."""
    found = []
    if any(row["judge"] != judge for row in rows):
        found.append(f"their judge is {judge}")
    if any(row["n_asked"] != questions for row in rows):
        found.append(f"they are on {questions} questions")
    return found
