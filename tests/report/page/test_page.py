"""The page as a reader gets it: complete, safe, the runs asked for and no others, the same bytes every time."""

import base64
import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.analysis.kl.estimators import ESTIMATORS, described
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_json, write_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.report.page.page import write_report
from epsilon_dpo.report.page.results import read_results
from epsilon_dpo.report.page.tracked import compared_policies

ROOT = Path(__file__).resolve().parents[3]
Runs = dict[str, dict[str, Any]]


def written(out: Path, runs: Runs, to: Path, count: int = 2) -> str:
    to.mkdir()
    write_report(read_results(out, runs), count, to)
    return (to / "report.html").read_text("utf-8")


def test_each_section_is_linked_and_each_table_and_figure_says_what_it_is(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    page = written(outputs(), runs, tmp_path / "report")
    links = re.findall(r'<li><a href="#([\w-]+)">', page.split("<nav ")[1].split("</nav>")[0])
    assert links == re.findall(r'<h2 id="([\w-]+)">', page) and "win-rates" in links
    ids = re.findall(r'id="([\w-]+)"', page)
    assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([\w-]+)"', page)) <= set(ids)
    assert not re.search(r"<th(?! scope=)[ >]", page)
    tables = re.findall(r'<div class="wide" role="region" aria-label="(.+?)" tabindex="0"><table><caption>(.+?)<', page)
    assert len(tables) == page.count('<div class="wide"') - page.count("<figure") and all(a == b for a, b in tables)


@pytest.mark.drawings
def test_the_page_needs_nothing_but_itself(outputs: Callable[..., Path], runs: Runs, tmp_path: Path) -> None:
    page = written(outputs(), runs, tmp_path / "report")
    assert page.count('<img src="data:image/png;base64,') == 5 + 2
    assert not re.search(r'(src|href)="(?!data:|#)|@import|url\(|<link|<script', page)
    assert "mine says &lt;script&gt;" in page  # what a policy says is text
    assert "</code>. All other settings are in" in page  # a block of the template takes the line's end after it


def test_only_the_runs_asked_for_are_shown(outputs: Callable[..., Path], runs: Runs, tmp_path: Path) -> None:
    """A run that was removed from params.yaml leaves its folders behind."""
    out = outputs(dpo=[1.0, 0.0], mine=[1.0, 1.0], leftover=[0.0, 0.0], runs=("dpo", "mine"))
    page = written(out, runs, tmp_path / "report")
    assert "leftover" not in page
    assert list(json.loads((tmp_path / "report/summary.json").read_text("utf-8"))["runs"]) == ["dpo", "mine"]


def test_the_tables_hold_the_stages_values(outputs: Callable[..., Path], runs: Runs, tmp_path: Path) -> None:
    page = written(outputs(), runs, tmp_path / "report")
    with (tmp_path / "report/runs.csv").open(encoding="utf-8") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["sft", "dpo", "mine"]
    assert (rows["dpo"]["win_rate/chosen"], rows["dpo"]["win_rate/sft"]) == ("0.5625", "0.4375")  # 4.5 and 3.5 of 8
    assert rows["sft"]["win_rate/chosen"] == "0.5" and rows["sft"]["win_rate/sft"] == ""
    assert rows["mine"]["kl_fwd_rb"] == "2.0" and rows["sft"]["kl_fwd_rb"] == "0.0"
    assert "56.2 %<small>21.5 to 86.7</small>" in " ".join(page.split())  # Gaffke, 4 won and 1 tied of 8, by drawing
    with (tmp_path / "report/training.csv").open(encoding="utf-8") as file:
        losses = [row for row in csv.DictReader(file) if row["metric"] == "loss" and row["run"] == "dpo"]
    assert next((row["step"], float(row["value"])) for row in losses) == ("1", 3.99)
    metrics = json.loads((tmp_path / "report/metrics.json").read_text("utf-8"))
    assert list(metrics) == ["dpo", "mine", "sft"] and metrics["mine"]["kl_fwd_rb"] == 2.0
    assert {name: str(value) for name, value in metrics["dpo"].items()}.items() <= rows["dpo"].items()
    assert len(metrics["dpo"]) == 5 and {type(value) for row in metrics.values() for value in row.values()} == {float}


def test_every_rate_of_the_headline_stands_below_its_heading(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    """dpo wins 4.5 of 8 over the chosen answers by the judge and 6 of 8 by the truth, and the rest over SFT. SFT wins
    4 and 5 of 8 over the chosen answers."""
    out = outputs(dpo=[1.0, 0.0, 0.5, 1.0, 0.0, 0.0, 1.0, 1.0], mine=[1.0] * 8, true={"dpo": [1.0] * 6 + [0.0] * 2})
    true = {"": 0.625, "_low": 0.25, "_high": 0.875}
    controls = read_json(out / "controls/metrics.json")
    controls |= {f"true_win_rate/sft_vs_chosen{end}": x for end, x in true.items()}
    write_json(out / "controls/metrics.json", controls)
    page = " ".join(written(out, runs, tmp_path / "report").split())
    table = page.split("<caption>Every policy</caption>")[1].split("</table>")[0]
    headings = [("true", "chosen"), ("true", "SFT"), ("judged", "chosen"), ("judged", "SFT")]
    assert re.findall(r"(true|judged) win rate<br>vs (\w+)</th>", table) == headings
    row = table.split('<th scope="row">dpo</th>')[1].split("</tr>")[0]
    assert re.findall(r"([\d.]+) %<small>", row) == ["75.0", "25.0", "56.2", "43.8"]
    row = table.split('<th scope="row">sft</th>')[1].split("</tr>")[0]
    assert re.findall(r"([\d.]+) %<small>([\d.]+) to", row)[0] == ("62.5", "25.0")
    assert re.findall(r"([\d.]+) %<small>", row) == ["62.5", "50.0"]


def test_the_differences_that_decide_are_bold_and_no_others(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    """By the judge mine wins 19 of 20 prompts more over the chosen answers, and so dpo over SFT; by the truth none."""
    tied = {name: [0.5] * 20 for name in runs}
    out = outputs(dpo=[0.0] * 20, mine=[1.0] * 19 + [0.0], true=tied)
    page = " ".join(written(out, runs, tmp_path / "report").split())
    table = page.split('<th scope="row">dpo − mine</th>')[1].split("</tr>")[0]
    cells = re.findall(r'<td class="n">(.*?)<small>', table)
    assert cells == ["<strong>−95.0</strong>", "+0.0", "<strong>+95.0</strong>", "+0.0"]


def test_data_from_people_has_no_true_reward(outputs: Callable[..., Path], runs: Runs, tmp_path: Path) -> None:
    page = written(outputs(truth=False), runs, tmp_path / "report")
    assert "true win rate" not in page and "true reward" not in page
    assert "4 of 12 rows do not meet “both answers hold text”" in page
    assert "on, 11 repeat an earlier one and 13 pairs" in page and "longer one in 61.3 %" in " ".join(page.split())


def test_splits_policies_and_decisions_each_stand_in_their_own_cells(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    out = outputs()
    write_jsonl(out / "validate/eval.jsonl", [{"id": "eval/0"}])  # else both splits are the same bytes
    page = " ".join(written(out, runs, tmp_path / "report").split()).replace(' class="n"', "")
    split = '<th scope="row">{}</th><td>{}</td><td>{}</td><td>{}</td> <td>{}</td><td><code>{}</code></td>'
    for name, *counts in (("train", 40, 40, 0, 3), ("eval", 12, 8, 4, 0)):
        assert split.format(name, *counts, digest(out / f"validate/{name}.jsonl")[:16]) in page
    for name in runs:
        assert f"<td><code>{name.ljust(16, '0')}</code></td></tr>" in page
    assert '<th scope="row">mine</th><td>50.0 %</td><td>20.0 %</td><td>30.0 %</td>' in page


def test_the_page_says_what_fetch_has_dropped(outputs: Callable[..., Path], runs: Runs, tmp_path: Path) -> None:
    """The contract never saw these rows."""
    out = outputs()
    dataset = read_json(out / "validate/dataset.json")
    write_json(out / "validate/dataset.json", dataset | {"dropped": {"null": 2, "tied": 1201}})
    page = " ".join(written(out, runs, tmp_path / "report").split())
    said = "(it dropped 1,203: tied 1,201, null 2; <code>out/fetch/dropped.jsonl</code>), 11 repeat an earlier one"
    assert f"Of the rows that <code>fetch</code> handed on {said}" in page


def test_a_training_of_less_than_an_epoch_is_not_one_on_all_pairs(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    out = outputs()
    all_pairs = "SFT model, on 40 preference"  # also where the last few made no whole step
    for epochs, said in ((0.2408, "SFT model, on 0.24 epochs of 40 preference"), (0.9961, all_pairs), (1.0, all_pairs)):
        for name in runs:
            file = out / f"align/metrics/{name}/metrics.json"
            write_json(file, read_json(file) | {"train_epoch": epochs})
        assert f"{said} pairs (by hand), each" in " ".join(written(out, runs, tmp_path / f"{epochs}").split())


def test_a_run_that_learns_from_own_answers_has_no_loss_on_pairs(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    """What its evaluation calls loss is DPO's, which it has not minimised."""
    out = outputs()
    file = out / "align/metrics/mine/metrics.json"
    write_json(file, read_json(file) | {"eval_reward": 1.0})
    page = " ".join(written(out, runs, tmp_path / "report").split())
    table = page.split("<caption>After the last step, on the evaluation pairs</caption>")[1].split("</tbody>")[0]
    assert [row.count(">0.600<") for row in table.split("<tr><th")[2:]] == [1, 0] and table.count(">0.200<") == 2


def test_runs_with_a_constant_beta_have_no_beta_section(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    page = written(outputs(adapting=()), runs, tmp_path / "report")
    assert "β lowered" not in page
    assert sorted(file.stem for file in (tmp_path / "report/figures").iterdir()) == [
        "kl_win_rate",
        "training",
        "win_rates",
    ]


def test_a_run_without_reference_has_no_margin_and_no_kl_of_its_own_training(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    page = " ".join(written(outputs(free=("dpo",)), runs, tmp_path / "report").split())
    cells = '<td class="n">{}</td> <td class="n">−5.500</td> <td class="n">{}</td> <td class="n">0.200</td>'
    assert cells.format("–", "–") in page and cells.format("1.250", "0.750") in page
    with (tmp_path / "report/runs.csv").open(encoding="utf-8") as file:
        assert [row["eval_margins_raw"] for row in csv.DictReader(file)] == ["", "", "1.25"]


def test_several_answers_to_a_prompt_are_not_called_prompts(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    out = outputs()
    rows = read_jsonl(out / "reference/samples.jsonl")
    write_jsonl(out / "reference/samples.jsonl", [row | {"prompt_id": number // 2} for number, row in enumerate(rows)])
    page = " ".join(written(out, runs, tmp_path / "report").split())
    assert "each answering the same 4 held-out prompts 2 times" in page
    assert "8 answers per policy to 4 prompts" in page


def test_a_runs_config_is_one_cell_however_many_methods_there_are(outputs: Callable[..., Path], tmp_path: Path) -> None:
    three = {
        "dpo": {"method": "dpo", "beta": 0.3},
        "mine": {"method": "pairwise_cringe", "b": 0.0, "gate_gradient": True, "learning_rate": 5.0e-4, "seed": None},
    }
    page = written(outputs(), three, tmp_path / "report")
    assert "<td>dpo</td><td>beta 0.3</td>" in page
    assert "<td>pairwise_cringe</td><td>b 0.0, gate_gradient true, learning_rate 0.0005, seed null</td>" in page


def test_a_confidence_is_not_rounded(outputs: Callable[..., Path], runs: Runs, tmp_path: Path) -> None:
    out = outputs()
    write_json(out / "controls/metrics.json", read_json(out / "controls/metrics.json") | {"confidence": 0.975})
    page = written(out, runs, tmp_path / "report")
    assert "97.5 % intervals over prompts" in page and "98 %" not in page


def test_one_run_and_no_example_is_a_report_too(outputs: Callable[..., Path], tmp_path: Path) -> None:
    page = written(outputs(mine=[1.0, 0.0]), {"mine": {"method": "epsilon_dpo"}}, tmp_path / "report", count=0)
    assert "a comparison needs two" in page and "side by side" not in page


@pytest.mark.drawings
def test_the_same_outputs_give_the_same_bytes(outputs: Callable[..., Path], runs: Runs, tmp_path: Path) -> None:
    """In another process with another hash seed, another clock and a user's own style of drawing."""
    out = outputs()
    written(out, runs, tmp_path / "here")
    code = (
        "import sys; from pathlib import Path; from epsilon_dpo.report.page.page import write_report\n"
        "from epsilon_dpo.report.page.results import read_results\n"
        f"write_report(read_results(Path(sys.argv[1]), {runs!r}), 2, Path(sys.argv[2]))"
    )
    (tmp_path / "there").mkdir()
    environment = os.environ | {"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "MPLBACKEND": "svg"}
    (tmp_path / "matplotlibrc").write_text("figure.facecolor: black\nsavefig.bbox: tight\nlines.markersize: 9\n")
    environment |= {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    subprocess.run([sys.executable, "-c", code, out, tmp_path / "there"], check=True, env=environment)
    files = [path.relative_to(tmp_path / "here") for path in sorted((tmp_path / "here").rglob("*")) if path.is_file()]
    assert len(files) == 14
    for file in files:
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes(), file


def test_the_page_says_whether_the_judge_looks_at_the_question(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    page = written(outputs(), runs, tmp_path / "report")
    assert "answer to <em>another</em> prompt win" in page and "(by the true reward: 0.0 %)" in page


def test_the_tournament_stands_in_the_truths_order_beside_the_judges_places(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    """By hand: four players, 40 Elo points apart, the first two not separated; the judge ranks them the other way."""
    page = " ".join(written(outputs(), runs, tmp_path / "report").split())
    table = page.split(">All against all</a></h2>")[1].split("</table>")[0]
    assert re.findall(r"by the ([a-z ]+)</th>", table) == ["true reward"] * 3 + ["judge"] * 3
    assert re.findall(r'<th scope="row">(\w+)</th>', table)[-4:] == ["chosen", "sft", "mine", "dpo"]
    places = ["1–2", "4", "1–2", "3", "3", "1–2", "4", "1–2"]
    assert re.findall(r'<td class="n">([\d–]+)</td>', table) == places
    assert table.count('<td class="n">87.5 %</td>') == 4 and "not the chance that an answer of one beats" in table
    assert "−20<small>−35 to −5</small>" in table and "60.0 %<small>50.0 to 70.0</small>" in table
    with (tmp_path / "report/ranking.csv").open(encoding="utf-8") as file:
        rows = [(row["scorer"], row["policy"]) for row in csv.DictReader(file)]
    assert rows[:2] == [("true reward", "chosen"), ("true reward", "sft")] and rows[4:5] == [("judge", "dpo")]


def test_an_interval_by_resampling_too_near_to_0_or_1_is_marked(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    """Of 200 prompts, 4 or 6 on the rarer side; the strengths are fitted to the same games."""
    out, marked = outputs(), []
    for number, rates in enumerate([(0.98, 0.97, 0.02, 0.03), (0.97, 0.6, 0.5, 0.03)]):
        tables = read_json(out / "tournament/ranking.json")
        for rows in tables.values():
            for row, rate in zip(rows, rates, strict=True):
                row |= {"win_rate": rate, "n": 200}
        write_json(out / "tournament/ranking.json", tables)
        page = " ".join(written(out, runs, tmp_path / str(number)).split())
        section = page.split(">All against all</a></h2>")[1].split("<h2 ")[0]
        cells = re.findall(r'<td class="n">([\d.]+) %<small>[^<]+</small> ?(<small>too narrow</small>)?', section)
        marked.append({float(rate) for rate, mark in cells if mark})
        assert section.count("<small>too narrow</small>") == 2 * sum(bool(mark) for _, mark in cells)
        assert ("Too narrow: fewer than 5 prompts" in section) == bool(marked[-1])
    assert marked == [{98.0, 2.0}, set()]


def test_every_estimator_of_the_distance_is_shown_and_explained(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    page = " ".join(written(outputs(), runs, tmp_path / "report").split())
    section = page.split(">By every estimator</a></h3>")[1].split("<h2 ")[0]
    cells = re.findall(r'<td class="n">([\d.]+)<small>± ([\d.]+) s\.e\.(.*?)</small>', section)
    values = [("2.00", ""), ("1.90", ""), ("2.50", ""), ("1.25", ", 12.5 % cut"), ("1.50", "")]
    assert cells == [(value, "0.10", cut) for value, cut in values] * 2
    assert all(f'<tr><th scope="row"><code>{estimator.name}</code>' in section for estimator in ESTIMATORS)
    with (tmp_path / "report/runs.csv").open(encoding="utf-8") as file:
        sft, dpo, _ = csv.DictReader(file)
    assert (sft["kl_rev_rb"], dpo["kl_rev_rb"], dpo["kl_fwd_data_se"]) == ("0.0", "1.25", "0.1")


def test_the_papers_figures_stand_with_captions_and_data(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    page = " ".join(written(outputs(), runs, tmp_path / "report").split())
    section = page.split(">The paper&#39;s figures</a></h2>")[1].split("<h2 ")[0]
    image = base64.b64encode(b"an image").decode()
    assert section.count(f'<img src="data:image/png;base64,{image}"') == 2
    assert (
        section.index(">First &lt;title&gt;</a></h3>") < section.index("Of 8 prompts.") < section.index("Second title")
    )
    assert "Its data: <code>out/figures/pareto.csv</code>, <code>out/figures/frontiers.csv</code>." in section
    assert section.count("Its data") == 1
    assert "Table 5 · dpo · decreasing · margin −1.25" in section
    assert "because &lt;b&gt;" in section and "(empty)" in section


def test_without_figures_of_the_paper_there_is_no_section(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    out = outputs()
    for name in ("figures", "pairs"):
        (out / "figures" / f"{name}.json").write_text("[]", "utf-8")
    assert "The paper&#39;s figures" not in written(out, runs, tmp_path / "report")


def test_a_reference_that_was_not_trained_is_called_by_its_name(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path
) -> None:
    out, to = outputs(), tmp_path / "report"
    assert "No SFT" not in written(out, runs, tmp_path / "trained")
    write_json(out / "sft/metrics.json", {"steps": 0})
    to.mkdir()
    write_report(read_results(out, runs, "some/model at 01234567"), 0, to)
    page = (to / "report.html").read_text("utf-8")
    assert "No SFT: the reference, which is called SFT on this page, is some/model at 01234567." in page
    assert "no SFT: the reference is some/model at 01234567</td>" in page and "evaluation loss" not in page


def test_a_kl_under_top_p_is_called_none_wherever_it_is_shown(
    outputs: Callable[..., Path], runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = outputs()
    assert "not the policies" not in written(out, runs, tmp_path / "plain")
    for name in runs:
        metrics = read_json(out / f"kl/{name}/metrics.json") | {"sampled_under": "top_p 0.95"}
        write_json(out / f"kl/{name}/metrics.json", metrics)
        write_json(out / f"kl/{name}/estimators.json", described(0.95, "top_p 0.95"))
    metrics = read_json(out / "reference/metrics.json")
    write_json(out / "reference/metrics.json", metrics | {"logits": {"top_p": 0.95, "top_k": 50}})
    page = written(out, runs, tmp_path / "shaped")
    assert "nats per answer<br>under top_p 0.95:<br>not the policies' KL</th>" in page
    assert "<li>Under top_p 0.95: not the policies&#39; KL." in page
    assert "temperature 1.0, top_k 50, top_p 0.95, 8 answers" in page
    monkeypatch.chdir(ROOT)
    results = read_results(out, runs)
    rows = [row["metrics"] for row in compared_policies(replace(results, runs=results.runs[:1]))]
    columns = read_json(tmp_path / "shaped/metrics.json").values()
    assert read_json(tmp_path / "shaped/summary.json")["sampled_under"] == "top_p 0.95"  # for a policy's card
    assert "sampled_under" not in read_json(tmp_path / "plain/summary.json")
    kls = ("kl_fwd_rb", "kl_fwd_mc", "kl_rev_rb", "kl_rev_mc")
    assert not [name for row in (*rows, *columns) for name in row if name.startswith(kls)]
    assert "kl_fwd_data" in rows[0] and "kl_fwd_rb" in read_json(tmp_path / "plain/metrics.json")["dpo"]


def test_there_is_one_minus_sign(outputs: Callable[..., Path], runs: Runs, tmp_path: Path) -> None:
    """Every number of the stages below 0 that can be."""
    out = outputs()
    ends = {"": -0.05, "_low": -0.1, "_high": -0.02}
    rewards = {f"true_reward/run{end}": x for end, x in ends.items()}
    names = ("eval_loss", "eval_rewards/margins", "eval_margins_raw", "eval_logps/chosen")
    below = {
        "align/metrics": dict.fromkeys(names, -5.5),
        "score": rewards | {"position_bias/sft": -0.25},
        "kl": {f"{estimator.name}{end}": x for estimator in ESTIMATORS for end, x in ends.items()},
    }
    for folder, changes in below.items():
        for name in runs:
            file = out / folder / name / "metrics.json"
            write_json(file, read_json(file) | changes)
    page = written(out, runs, tmp_path / "report")
    shown = re.sub(r"<code>.*?</code>|<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert shown.count("−") > 20
    assert re.findall(r"(?<![\w-])-\d\S*", shown) == []
