"""presets/pareto.yaml, cut down to some minutes: the paper's figures and tables from one `dvc repro`."""

import csv
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import dump_yaml
from whole_pipeline import all_stages, copy_project, repro, with_preset

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.study.collect import collect, known_replicates, read_results

# tests/report/figures has the same of made-up policies, test_on_policy_pipeline.py of two runs.
pytestmark = [pytest.mark.slow, pytest.mark.campaign]

ROOT = Path(__file__).resolve().parent.parent
RUNS = ("dpo_b01", "dpo_b1", "epsilon_dpo_b03", "epsilon_dpo_b1", "epsilon_dpo_e002")
SMALL: dict[str, Any] = {
    "fetch.train_pairs": 1000,
    "judge.max_steps": 60,
    "sft.max_steps": 60,
    "align.max_steps": 20,  # of 32 in the epoch
    "sample.max_prompts": 40,
    "tournament.max_prompts": 20,
    "runs": {run: read_yaml(ROOT / "presets" / "pareto.yaml")["runs"][run] for run in RUNS},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = copy_project(tmp_path_factory.mktemp("pareto"), tracked=True)
    with_preset(project, "pareto", SMALL)
    assert set(repro(project)) == all_stages(project)
    return project


def table(project: Path, name: str) -> list[dict[str, str]]:
    with (project / "out" / "figures" / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_figures_are_drawn_and_shown(project: Path) -> None:
    figures = read_json(project / "out/figures/figures.json")
    assert [figure["name"] for figure in figures] == ["pareto", "dynamics", "margins"]
    page = (project / "out/report/report.html").read_text("utf-8")
    for figure in figures:
        assert figure["title"].replace("'", "&#39;") in page
        assert "40 prompts" in figure["caption"] or "evaluation pairs" in figure["caption"]
    assert len(read_json(project / "out/figures/pairs.json")) == 4 and "Table 5" in page


def test_each_family_has_its_frontier_and_each_policy_its_point(project: Path) -> None:
    points = table(project, "pareto")
    assert {(row["run"], row["scorer"]) for row in points} == {
        (run, s) for run in RUNS for s in ("judge", "true reward")
    }
    families = {"dpo", "epsilon_dpo, epsilon 0.01"}
    assert {row["family"] for row in table(project, "hypervolumes")} == families
    stairs = {
        (row["family"], row["scorer"], float(row["kl"])): float(row["win_rate"]) for row in table(project, "frontiers")
    }
    steps = [row for row in points if row["family"] in families]
    assert len(steps) == 2 * 4
    for row in steps:  # the best that its family attains with at most its KL
        assert stairs[row["family"], row["scorer"], float(row["kl"])] >= float(row["win_rate"]) - 1e-12
    assert all(float(row["kl_low"]) <= float(row["kl"]) <= float(row["kl_high"]) for row in points)


def test_the_policies_within_the_epoch_are_followed_for_each_epsilon(project: Path) -> None:
    """Snapshots at each fifth of the 32 steps of the epoch, of which 20 were trained; the last is the final policy."""
    for run in ("epsilon_dpo_b03", "epsilon_dpo_e002"):
        rows = [row for row in table(project, "dynamics") if row["run"] == run and row["metric"] == "kl_fwd_rb"]
        assert [int(row["step"]) for row in rows] == [7, 13, 20]
        assert all(float(row["value"]) > 0.0 for row in rows)
    assert {row["run"] for row in table(project, "ratios")} == {"epsilon_dpo_b03", "epsilon_dpo_e002"}


def test_the_study_collects_a_finished_project_and_no_other(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row against what the stages wrote of that policy, added up here."""
    preset = shutil.copy(project / "params.yaml", tmp_path / "preset.yaml")
    level = {"title": "Small", "preset": str(preset), "seeds": [17, 18]}
    content = {"confidence": 0.95, "levels": {"small": level}, "claims": []}
    (tmp_path / "study").mkdir()
    dump_yaml(str(tmp_path / "study/claims.yaml"), content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(project))
    number, marked, _ = collect("small", project)
    rows = read_results("small")
    assert (number, marked) == (len(rows), len(RUNS))
    final = {row["run"]: row for row in rows if row["place"] == "."}
    followed = {row["run"] for row in rows if row["place"] != "."}
    assert set(final) == {"sft", *RUNS} and followed == {"epsilon_dpo_b03", "epsilon_dpo_e002"}
    reference = final.pop("sft")
    judged = read_json(project / "out/controls/metrics.json")
    assert float(reference["kl"]) == 0.0
    assert float(reference["win_rate_true"]) == judged["true_win_rate/sft_vs_chosen"]
    assert float(reference["win_rate_judge"]) == judged["win_rate/sft_vs_chosen"]
    for run, row in final.items():
        assert_a_row_is_what_the_stages_wrote(project / "out", run, row)
    file = tmp_path / "study/results/small/policies.csv"
    before = file.read_bytes()
    collect("small", project)
    assert file.read_bytes() == before, "a replicate that is collected again changes nothing"
    (made,) = known_replicates("small").values()
    assert len(made["params"]) == 64 and made["torch"] == "2.13.0"
    params = (project / "params.yaml").read_text("utf-8")
    (project / "params.yaml").write_text(params.replace("seed: 17", "seed: 18", 1), "utf-8")
    with pytest.raises(UserError, match=r"is not reproduced: \S+ and \d+ more would run"):
        collect("small", project)
    (project / "params.yaml").write_text(params, "utf-8")


def assert_a_row_is_what_the_stages_wrote(out: Path, run: str, row: dict[str, str]) -> None:
    of_reference = [one for one in read_jsonl(out / "kl" / run / "records.jsonl") if one["answers"] == "reference"]
    distances = [record["kl_fwd_rb"] for record in of_reference]
    scored = [record for record in read_jsonl(out / "score" / run / "records.jsonl") if record["opponent"] == "chosen"]
    assert float(row["kl"]) == pytest.approx(sum(distances) / len(distances))
    for column, field in (("win_rate_true", "true_win"), ("win_rate_judge", "win")):
        assert float(row[column]) == pytest.approx(sum(record[field] for record in scored) / len(scored))
    steps = read_jsonl(out / "monotonicity" / run / "records.jsonl")
    margins = {step: [r["margin"] for r in steps if r["step"] == step] for step in (1, -1)}
    assert (int(row["decreasing"]), int(row["increasing"])) == (len(margins[1]), len(margins[-1]))
    if all(margins.values()):
        means = {step: sum(values) / len(values) for step, values in margins.items()}
        assert float(row["margin_gap"]) == pytest.approx(means[-1] - means[1])
    curve = [line for line in read_jsonl(out / "align/metrics" / run / "metrics.jsonl") if "eps/lowered" in line]
    assert (row["beta_change"] != "") == run.startswith("epsilon") == bool(curve)
    if curve:
        change = abs(math.log(curve[-1]["eps/beta_next"] / float(row["beta"])))
        assert float(row["beta_change"]) == pytest.approx(change)
        assert float(row["lowered_share"]) == pytest.approx(sum(line["eps/lowered"] for line in curve) / len(curve))


def test_another_figure_judges_nothing_again(project: Path) -> None:
    with_preset(project, "pareto", {**SMALL, "figures.smoothing": 0.5})
    assert set(repro(project)) <= {"check", "figures", "report"}


def test_another_judge_samples_and_trains_nothing_again(project: Path) -> None:
    with_preset(project, "pareto", {**SMALL, "judge.max_steps": 50, "figures.smoothing": 0.5})
    ran = set(repro(project))
    assert {"judge", "figures", "report"} <= ran
    assert {stage.partition("@")[0] for stage in ran} == {
        *("check", "judge", "ranking", "margins", "scorer", "controls", "score", "tournament", "figures", "report")
    }
