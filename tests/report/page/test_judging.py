"""How the judge decided: a column per number that exists, and the cost of a judge that is asked over a network."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from epsilon_dpo.judging.judges.llm_prompt import CERTAIN
from epsilon_dpo.pipeline.stage.files import read_json, write_json
from epsilon_dpo.report.page.page import write_report
from epsilon_dpo.report.page.results import read_results

Runs = dict[str, dict[str, Any]]
FACTS = {"consistency": 0.75, "position_bias": -0.5, "tie_share": 0.125, "truncated_share": 0.0, "refused_share": 0.0}
USAGE = {"judge_questions": 32.0, "judge_uncounted_questions": 1.0, "judge_input_tokens": 1_234_567.0}
USAGE |= {"judge_output_tokens": 64.0, "judge_cost_usd": 0.0123}


def section(out: Path, runs: Runs, to: Path, **changes: float) -> str:
    """The page's part, the metrics of run `mine` against SFT having FACTS and then `changes`."""
    file = out / "score" / "mine" / "metrics.json"
    write_json(file, read_json(file) | {f"{name}/sft": x for name, x in FACTS.items()} | changes)
    to.mkdir()
    write_report(read_results(out, runs), 0, to)
    page = " ".join((to / "report.html").read_text("utf-8").split())
    return page.split(">How the judge decided</a></h2>")[1].split("<h2 ")[0]


def test_a_number_that_exists_nowhere_has_no_column(outputs: Callable[..., Path], runs: Runs, tmp_path: Path) -> None:
    found = section(outputs(), runs, tmp_path / "report")
    assert re.findall(r'<th scope="col" class="n">(.*?)</th>', found) == [
        "win<br>rate",
        "orders<br>agree",
        "first place<br>gains, nats",
        "ties<br>",
    ]
    last = found.split("<tr>")[-1].split("</tbody>")[0]
    assert re.findall(r"75\.0 %|−0\.50|12\.5 %", last) == ["75.0 %", "−0.50", "12.5 %"]
    assert '<th scope="row">dpo<small>vs chosen</small></th>' in found and "–" in found  # dpo has none of the three
    assert "Refused" not in found and "questions</th>" not in found
    assert "for a difference of 0, in the judge's tokens. " in found


def test_refusals_and_cost_are_shown_where_there_are_any(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    found = section(outputs(), runs, tmp_path / "report", **USAGE, **{"refused_share/sft": 0.25})
    assert "<em>Refused</em>" in found and "25.0 %" in found
    cost = found.split("<table>")[2]
    assert re.findall(r'<td class="n">(.*?)</td>', cost) == ["32", "1,234,567", "64", "0.0123", "1"]
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


def test_the_cost_of_a_judge_of_characters_names_every_stage(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    out = outputs()
    for n, file in enumerate(("judge/metrics.json", "controls/metrics.json", "tournament/usage.json")):
        write_json(out / file, read_json(out / file) | USAGE | {"judge_questions": 100.0 + n})
    write_json(out / "judge/judge.json", read_json(out / "judge/judge.json") | {"kind": "llm"})
    found = section(out, runs, tmp_path / "report", **USAGE)
    rows = re.findall(r'<th scope="row">([^<]*)</th><td class="n">(.*?)</td>', found.split("<table>")[2])
    stages = [("stage judge", "100"), ("stage controls", "101"), ("stage tournament", "102")]
    assert rows == [("mine", "32"), *stages] and "for a difference of 0, in characters." in found


def test_what_a_teacher_was_asked_is_counted_as_well(outputs: Callable[..., Path], runs: Runs, tmp_path: Path) -> None:
    """Where the judge that scores costs nothing; and of the judge itself where there is no teacher beside it."""
    out = outputs()
    for n, stage in enumerate(("ranking", "margins")):
        write_json(out / f"{stage}_usage/usage.json", USAGE | {"judge_questions": 10.0 + n})
    for name, whose in (("alone", ""), ("taught", ", the teacher")):
        rows = [(f"stage ranking{whose}", "10", "0.0123"), (f"stage margins{whose}", "11", "0.0123")]
        if whose:
            write_json(out / "teacher/judge.json", {"kind": "llm", "source": "llm", "origin": "some/llm"})
            free = {name: value for name, value in USAGE.items() if name != "judge_cost_usd"}
            write_json(out / "teacher/metrics.json", read_json(out / "teacher/metrics.json") | free)
            rows.insert(0, (f"stage judge{whose}", "32", "–"))
        table = section(out, runs, tmp_path / name).split("<table>")[2]
        found = re.findall(r'<th scope="row">([^<]*)</th>((?:<td class="n">.*?</td> ?)+)', table)
        cells = [(stage, re.findall(r'"n">(.*?)</td>', row)) for stage, row in found]
        assert [(stage, row[0], row[3]) for stage, row in cells] == rows


def test_a_letter_without_log_probs_is_said_to_be_an_assigned_number(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    """Beside the nats and beside the confidence, and of no other kind of judge."""
    out = outputs()
    judged = {f"overconfidence{end}": 0.25 for end in ("", "_low", "_high", "_n")}
    write_json(out / "judge/metrics.json", read_json(out / "judge/metrics.json") | judged)
    for kind, count in (("pairrm", 0), ("llm", 2)):
        write_json(out / "judge/judge.json", read_json(out / "judge/judge.json") | {"kind": kind})
        section(out, runs, tmp_path / kind)
        page = " ".join((tmp_path / kind / "report.html").read_text("utf-8").split())
        assert page.count(f"an LLM that gives no log-probs each letter counts as {CERTAIN:g} nats") == count


def test_the_criterion_of_an_llm_is_quoted_with_it(outputs: Callable[..., Path], runs: Runs, tmp_path: Path) -> None:
    """Only where the user wrote one: null is the project's own, which judge.json names by its template."""
    out = outputs()
    for name, criterion in (("null", None), ("own", "Better is <b>shorter</b>.\nIt runs.")):
        own = {"kind": "llm", "source": "llm", "criterion": criterion}
        write_json(out / "judge/judge.json", read_json(out / "judge/judge.json") | own)
        section(out, runs, tmp_path / name)
        page = (tmp_path / name / "report.html").read_text("utf-8")
        row = re.findall(r'<th scope="row">judge</th><td>(.*?)</td>', page, re.DOTALL)[0]
        quoted = ", asked which answer is better by: “Better is &lt;b&gt;shorter&lt;/b&gt;.\nIt runs.”"
        assert row.endswith(f"</code>, judge/by-hand{quoted if criterion else ''}")


def test_flips_and_the_agreement_beyond_chance_are_columns(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    ends = {"_low": -0.125, "_high": 0.25, "_n": 8}
    agreed = {f"truth_kappa/sft{end}": x for end, x in ({"": -0.05} | ends).items()}
    found = section(
        outputs(),
        runs,
        tmp_path / "report",
        **agreed,
        **{"flip_rate/sft": 0.2, "flip_rate/sft_low": 0.1, "flip_rate/sft_high": 0.3},
    )
    assert '<th scope="col" class="n">swapping<br>flips</th><th scope="col" class="n">κ with<br>the truth</th>' in found
    last = found.split("<tr>")[-1].split("</tbody>")[0]
    assert "20.0 %<small>10.0 to 30.0</small>" in last and "−0.05<small>−0.12 to 0.25</small>" in last
    assert "when the two are swapped. <em>κ with the truth</em>" in found


def test_whether_the_judge_can_be_trusted_beyond_chance(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    """Every value its own, so that none stands in another's row."""
    out, values = outputs(), iter(range(10, 99))

    def agreed(file: Path, *names: str) -> None:
        rows = {f"{name}{end}": next(values) / 100 for name in names for end in ("", "_low", "_high")}
        write_json(file, read_json(file) | rows | {f"{name}_n": 8 for name in names})

    agreed(out / "judge/metrics.json", "label_kappa", "label_alpha", "truth_kappa", "truth_alpha", "flip_rate")
    agreed(out / "judge/metrics.json", "overconfidence")
    agreed(out / "controls/metrics.json", *(f"truth_{name}/sft_vs_chosen" for name in ("kappa", "alpha")))
    agreed(out / "controls/metrics.json", *(f"truth_{name}/shuffled_vs_chosen" for name in ("kappa", "alpha")))
    to = tmp_path / "report"
    to.mkdir()
    write_report(read_results(out, runs), 0, to)
    page = " ".join((to / "report.html").read_text("utf-8").split())
    rows = (
        page.split(">Can the judge be trusted?</a></h2>")[1]
        .split("</tbody>")[0]
        .split('<tr><th scope="row" class="question">')[1:]
    )
    cells = {row.split("?")[0]: re.findall(r'<td class="n">(.*?)</td>', row) for row in rows}
    two = {question: found[1:3] for question, found in cells.items() if found[1] != "–"}
    assert two == {
        "How often does it agree with the labels of the evaluation pairs": [
            "0.10<small>0.11 to 0.12</small>",
            "0.13<small>0.14 to 0.15</small>",
        ],
        "How often does it agree with the true reward, on the pairs that the true reward decides": [
            "0.16<small>0.17 to 0.18</small>",
            "0.19<small>0.20 to 0.21</small>",
        ],
        "And on the SFT model's answers against the chosen ones, which it was not trained on": [
            "0.28<small>0.29 to 0.30</small>",
            "0.31<small>0.32 to 0.33</small>",
        ],
        "Does it look at the question": ["0.34<small>0.35 to 0.36</small>", "0.37<small>0.38 to 0.39</small>"],
    }
    assert cells["How often does swapping the order flip the verdict"] == [
        "22.0 %<small>23.0 to 24.0</small>",
        "–",
        "–",
        "8",
    ]
    assert cells["How often do both orders of a pair give the same winner"] == ["90.0 %", "–", "–", "3"]
    assert "n counts prompts, except pairs of different answers in the row on the winner of both orders." in page
    assert cells["Is it as sure as it is right"] == ["+25.0<small>+26.0 to +27.0</small> ", "–", "–", "8"]
    summary = read_json(to / "summary.json")
    assert summary["judge"]["label_kappa"] == 0.1 and summary["judge"]["flip_rate"] == 0.22
