"""out/figures/: each figure as an image, its values as tidy CSV files, and a caption that says what they are."""

from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_csv, write_json
from epsilon_dpo.pipeline.stage.runs import metrics_folder
from epsilon_dpo.report.figures import dynamics, margins
from epsilon_dpo.report.figures.alt_texts import dynamics_alt, margins_alt, over_optimisation_alt, pareto_alt
from epsilon_dpo.report.figures.captions import (
    dynamics_caption,
    margins_caption,
    over_optimisation_caption,
    pareto_caption,
)
from epsilon_dpo.report.figures.draw import draw_dynamics, draw_margins
from epsilon_dpo.report.figures.draw_over_optimisation import draw_over_optimisation
from epsilon_dpo.report.figures.draw_pareto import draw_pareto
from epsilon_dpo.report.figures.families import families
from epsilon_dpo.report.figures.over_optimisation import COLUMNS, over_optimisation
from epsilon_dpo.report.figures.params import FiguresView
from epsilon_dpo.report.figures.pareto import HYPERVOLUMES, POINTS, STAIRCASES, pareto
from epsilon_dpo.report.figures.points import OPPONENT, SCORERS, Row, read_point

IMAGES = "images"
OF_KL = ("pareto", "dynamics", "over_optimisation")


def write_figures(source: Path, params: FiguresView, out: Path) -> list[Row]:
    """Fill `out` from the outputs of other stages below `source`.

    Writes images/*.png, CSV files (those of `dvc plots` also without rows, so that it finds them), pairs.json
    (Tables 5-8) and figures.json, which is returned: per figure its name, title, caption, alt text, image and data
    files.
    """
    (out / IMAGES).mkdir()
    under = read_json(source / "kl" / next(iter(params.runs)) / "metrics.json").get("sampled_under", "")
    figures = [
        _pareto(source, params, out, under),
        *_dynamics(source, params, out, under),
        *_over_optimisation(source, params, out, under),
        _margins(source, params, out),
    ]
    for figure in figures:
        if under and figure["name"] in OF_KL:
            figure["caption"] += (
                f" The answers were sampled under {under}: what is drawn is not the policies' KL. "
                "The win rates are of these answers, too."
            )
            figure["alt"] += f" Under {under}: not the policies' KL."
    write_json(out / "figures.json", figures)
    return figures


def _pareto(source: Path, params: FiguresView, out: Path, under: str) -> Row:
    controls = read_json(source / "controls" / "metrics.json")
    names = {scorer: f"{metric}/sft_vs_{OPPONENT}" for scorer, (_, metric) in SCORERS.items()}
    sft = {scorer: controls[name] for scorer, name in names.items() if name in controls}
    points = [read_point(source, run) for run in params.runs]
    betas = {run: config.get("beta") for run, config in params.runs.items()}
    found = pareto(points, families(params.runs), betas, sft, params.confidence, params.seed)
    write_csv(out / "pareto.csv", found.points, POINTS)
    write_csv(out / "frontiers.csv", found.staircases(), STAIRCASES)
    write_csv(out / "hypervolumes.csv", found.hypervolumes(), HYPERVOLUMES)
    draw_pareto(out / IMAGES / "pareto.png", found, sft, under)
    judge = read_json(source / "judge" / "judge.json")
    caption = pareto_caption(found, points[0], judge, params.confidence)
    title, alt = "Win rate against KL (the paper's Figure 5)", pareto_alt(found, sft)
    return _figure("pareto", title, caption, alt, "pareto", "frontiers", "hypervolumes")


def _dynamics(source: Path, params: FiguresView, out: Path, under: str) -> list[Row]:
    trajectories = {run: dynamics.trajectory(source, run) for run in params.runs}
    kept = [run for run, rows in trajectories.items() if rows]
    followed = [row for rows in trajectories.values() for row in rows]
    decided = [row for run in kept for row in dynamics.ratios(source, run, params.figures.smoothing)]
    write_csv(out / "dynamics.csv", followed, dynamics.TRAJECTORY)
    write_csv(out / "ratios.csv", decided, dynamics.DECIDED)
    if not followed:
        return []
    draw_dynamics(out / IMAGES / "dynamics.png", followed, decided, _labels(params.runs, kept), under)
    judge = read_json(source / "judge" / "judge.json")
    caption = dynamics_caption(followed, decided, judge, params.figures.smoothing, params.confidence)
    title, alt = "Within the epoch (the paper's Figure 3)", dynamics_alt(followed, decided)
    return [_figure("dynamics", title, caption, alt, "dynamics", "ratios")]


def _over_optimisation(source: Path, params: FiguresView, out: Path, under: str) -> list[Row]:
    """Nothing, not even a table, unless the judge scores single answers and the truth is known."""
    rows = over_optimisation(source, families(params.runs), params.confidence, params.seed)
    if not rows:
        return []
    write_csv(out / "over_optimisation.csv", rows, COLUMNS)
    draw_over_optimisation(out / IMAGES / "over_optimisation.png", rows, under)
    judge, taught_by = (read_json(source / name / "judge.json") for name in ("judge", "teacher"))
    teacher = None if taught_by == judge else taught_by
    caption = over_optimisation_caption(rows, judge, teacher, params.confidence)
    title = "What the judge promises and what is true, over KL (over-optimisation)"
    alt = over_optimisation_alt(rows, teacher is not None)
    return [_figure("over_optimisation", title, caption, alt, "over_optimisation")]


def _margins(source: Path, params: FiguresView, out: Path) -> Row:
    rows, shown = [], params.figures.pairs_of or next(iter(params.runs))
    pairs = read_jsonl(source / "validate" / "eval.jsonl")
    for run, config in params.runs.items():
        beta = margins.beta_of_rewards(config, read_json(metrics_folder(source, run) / "metrics.json"))
        records = read_jsonl(source / "monotonicity" / run / "records.jsonl")
        rows += margins.margins(run, beta, records, pairs, params.confidence)
        if run == shown:
            write_json(out / "pairs.json", margins.quoted(run, beta, records, pairs))
    write_csv(out / "margins.csv", rows, margins.MARGINS)
    draw_margins(out / IMAGES / "margins.png", rows, list(params.runs))
    epsilon = read_json(source / "monotonicity" / shown / "metrics.json")["epsilon"]
    caption = margins_caption(rows, len(records), epsilon, params.confidence)
    title = "Margins by monotonicity (the paper's Figure 4)"
    return _figure("margins", title, caption, margins_alt(rows), "margins")


def _labels(runs: dict[str, dict[str, Any]], kept: list[str]) -> dict[str, str]:
    """A legend's name per run: its family, if that tells the runs apart."""
    labels = {run: family for run, family in families(runs).items() if run in kept}
    return labels if len(set(labels.values())) == len(labels) else {run: run for run in kept}


def _figure(name: str, title: str, caption: str, alt: str, *data: str) -> Row:
    said = {"name": name, "title": title, "caption": caption, "alt": alt}
    return said | {"image": f"{IMAGES}/{name}.png", "data": [f"{table}.csv" for table in data]}
