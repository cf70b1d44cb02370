"""out/figures as the stage writes it, and as `dvc plots` reads it."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from whole_pipeline import BIN, ROOT

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_csv, write_json, write_jsonl
from epsilon_dpo.pipeline.stage.params import parse, read_yaml
from epsilon_dpo.report.figures.params import FiguresView
from epsilon_dpo.report.figures.write import write_figures


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_figure_has_its_values_and_says_what_they_are(out: Path, view: FiguresView, tmp_path: Path) -> None:
    folder, again = tmp_path / "figures", tmp_path / "again"
    for target in (folder, again):
        target.mkdir()
        write_figures(out, view, target)
    assert files(folder) == files(again)
    figures = {figure["name"]: figure for figure in read_json(folder / "figures.json")}
    assert list(figures) == ["pareto", "dynamics", "margins"]
    named = {figure["image"] for figure in figures.values()} | {
        name for figure in figures.values() for name in figure["data"]
    }
    assert named | {"figures.json", "pairs.json"} == set(files(folder))
    for name in ("pareto", "dynamics"):
        for said in ("4 prompts of the evaluation split", "kl_fwd_rb", "a PairRM (trained on 40 pairs)", "95 %"):
            assert said in figures[name]["caption"], said
    assert "6 evaluation pairs" in figures["margins"]["caption"] and "ε = 0.01" in figures["margins"]["caption"]
    assert [pair["run"] for pair in read_json(folder / "pairs.json")] == ["dpo_05"] * 4


def test_without_snapshots_and_sweeps_there_is_less_to_draw(out: Path, view: FiguresView, tmp_path: Path) -> None:
    """And the pairs are the first run's where none is named."""
    alone = {"runs": {"dpo_01": view.runs["dpo_01"]}, "figures": view.figures.model_copy(update={"pairs_of": None})}
    (tmp_path / "figures").mkdir()
    figures = write_figures(out, view.model_copy(update=alone), tmp_path / "figures")
    assert [pair["run"] for pair in read_json(tmp_path / "figures" / "pairs.json")] == ["dpo_01"] * 4
    assert [figure["name"] for figure in figures] == ["pareto", "margins"]
    assert "no frontier to draw" in figures[0]["caption"]
    assert (tmp_path / "figures" / "dynamics.csv").read_text("utf-8").startswith("run,step,epoch,metric,value")


def test_policies_that_have_not_moved_have_no_margins(out: Path, view: FiguresView, tmp_path: Path) -> None:
    """After a first step at a learning rate of 0 a policy is its reference, on whose pairs nothing is decided."""
    for run in view.runs:
        file = out / "monotonicity" / run / "records.jsonl"
        still = {"margin": 0.0, "first_order": 0.0, "step": 0, "group": "neither"}
        write_jsonl(file, [record | still for record in read_jsonl(file)])
    (tmp_path / "figures").mkdir()
    figure = write_figures(out, view, tmp_path / "figures")[-1]
    assert figure["caption"].startswith("There are no margins to draw") and "6 evaluation pairs" in figure["caption"]
    assert figure["alt"].endswith("nats: none under any run.")
    assert (tmp_path / "figures" / "margins.csv").read_text("utf-8").startswith("run,beta,group")
    assert read_json(tmp_path / "figures" / "pairs.json") == []


@pytest.mark.slow
def test_dvc_plots_finds_every_number_it_draws(out: Path, view: FiguresView, tmp_path: Path) -> None:
    """With the project's own dvc.yaml and templates, whose fields must be columns of the tables."""
    (out / "figures").mkdir()
    write_figures(out, view, out / "figures")
    (out / "report" / "figures").mkdir(parents=True)
    shutil.copy(out / "figures" / "images" / "pareto.png", out / "report" / "figures" / "win_rates.png")
    curves = [{"run": "mine", "step": step, "metric": "loss", "value": 0.5} for step in (1, 2)]
    write_csv(out / "report" / "training.csv", curves)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copy(ROOT / "pins.yaml", tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    subprocess.run([BIN / "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    shutil.copytree(ROOT / ".dvc" / "plots", tmp_path / ".dvc" / "plots")
    shown = subprocess.run([BIN / "dvc", "plots", "show", "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0 and "failed" not in shown.stderr, shown.stderr
    plots = {name: drawn[0] for name, drawn in json.loads(shown.stdout)["data"].items()}
    images = {name for name, plot in plots.items() if plot["type"] == "image"}
    names = ("out/figures/images/pareto.png", "out/figures/images/dynamics.png", "out/figures/images/margins.png")
    assert images == {*names, "out/report/figures/win_rates.png"}
    tables = {
        "Win rate against KL": "figures/pareto.csv",
        "Within the epoch": "figures/dynamics.csv",
        "Margins by monotonicity": "figures/margins.csv",
        "Training": "report/training.csv",
    }
    for title, table in tables.items():
        with (out / table).open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        content = plots[title]["content"]
        assert len(content["data"]["values"]) == len(rows) > 0
        assert set(fields(content)) <= {*rows[0], "rev"}


def fields(content: object) -> list[str]:
    """Every field that a Vega-Lite specification encodes."""
    if isinstance(content, list):
        return [name for part in content for name in fields(part)]
    if not isinstance(content, dict):
        return []
    own = [content["field"]] if isinstance(content.get("field"), str) else []
    return own + [name for key, part in content.items() if key != "data" for name in fields(part)]


def test_the_pairs_are_those_of_a_run_that_exists() -> None:
    content = read_yaml(ROOT / "params.yaml")
    figures = content["figures"] | {"pairs_of": "dpp"}
    view = {"seed": 1, "confidence": 0.95, "runs": content["runs"], "figures": figures}
    with pytest.raises(UserError, match=r"figures\.pairs_of: dpp is none of the runs; name one, or write null"):
        parse(FiguresView, view)


@pytest.mark.parametrize("under", ["top_p 0.95", "temperature 0.7"])
def test_a_kl_of_other_answers_is_called_none_in_the_captions(
    out: Path, view: FiguresView, tmp_path: Path, under: str
) -> None:
    metrics = read_json(out / "kl/dpo_01/metrics.json")
    write_json(out / "kl/dpo_01/metrics.json", metrics | {"sampled_under": under})
    (tmp_path / "figures").mkdir()
    found = {figure["name"]: figure["caption"] for figure in write_figures(out, view, tmp_path / "figures")}
    said = f"The answers were sampled under {under}: what is drawn is not the policies' KL."
    assert {name for name, caption in found.items() if said in caption} == {"pareto", "dynamics"}
    assert "margins" in found
