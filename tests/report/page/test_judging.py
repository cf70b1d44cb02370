"""How the judge decided: a column per number that exists, and the cost of a judge that is asked over a network."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.stage.files import read_json, write_json
from epsilon_dpo.report.page.page import write_report
from epsilon_dpo.report.page.results import read_results

Runs = dict[str, dict[str, Any]]
FACTS = {"consistency": 0.75, "position_bias": -0.5, "tie_share": 0.125, "truncated_share": 0.0, "refused_share": 0.0}
USAGE = {"judge_questions": 32.0, "judge_uncounted_questions": 1.0, "judge_input_tokens": 6400.0}
USAGE |= {"judge_output_tokens": 64.0, "judge_cost_usd": 0.0123}


def section(out: Path, runs: Runs, to: Path, **changes: float) -> str:
    """The page's part, the metrics of run `mine` against SFT having FACTS and then `changes`."""
    file = out / "score" / "mine" / "metrics.json"
    write_json(file, read_json(file) | {f"{name}/sft": x for name, x in FACTS.items()} | changes)
    to.mkdir()
    write_report(read_results(out, runs), 0, to)
    page = " ".join((to / "report.html").read_text("utf-8").split())
    return page.split("<h2>How the judge decided</h2>")[1].split("<h2>")[0]


def test_a_number_that_exists_nowhere_has_no_column(outputs: Callable[..., Path], runs: Runs, tmp_path: Path) -> None:
    found = section(outputs(), runs, tmp_path / "report")
    assert re.findall(r'<th class="n">(.*?)</th>', found) == [
        "win<br>rate",
        "orders<br>agree",
        "first place<br>gains, nats",
        "ties<br>",
    ]
    last = found.split("<tr>")[-1].split("</tbody>")[0]
    assert re.findall(r"75\.0 %|−0\.50|12\.5 %", last) == ["75.0 %", "−0.50", "12.5 %"]
    assert "<th>dpo<small>vs chosen</small></th>" in found and "–" in found  # dpo has none of the three
    assert "Refused" not in found and "questions</th>" not in found


def test_refusals_and_cost_are_shown_where_there_are_any(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    found = section(outputs(), runs, tmp_path / "report", **USAGE, **{"refused_share/sft": 0.25})
    assert "<em>Refused</em>" in found and "25.0 %" in found
    cost = found.split("<table>")[2]
    assert re.findall(r'<td class="n">(.*?)</td>', cost) == ["32", "6,400", "64", "0.0123", "1"]
    with (tmp_path / "report/judging.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["policy"], row["opponent"]) for row in rows] == [
        ("sft", "chosen"),
        ("dpo", "chosen"),
        ("dpo", "sft"),
        ("mine", "chosen"),
        ("mine", "sft"),
    ]
    assert rows[-1]["refused_share"] == "0.25" and rows[-1]["win_rate_n"] == "8" and rows[0]["refused_share"] == ""
