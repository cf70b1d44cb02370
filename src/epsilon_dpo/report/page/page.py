"""out/report/: one self-contained page, its figures as files, and the tables behind them."""

import base64
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from epsilon_dpo.pipeline.stage.files import Row, write_csv, write_json
from epsilon_dpo.pipeline.stage.params import in_yaml
from epsilon_dpo.pipeline.stage.runs import CHOSEN
from epsilon_dpo.report.page.alt_texts import (
    beta_alt,
    beta_decisions_alt,
    control_alt,
    kl_alt,
    training_alt,
    win_rates_alt,
)
from epsilon_dpo.report.page.certificates import NONE, Certificates
from epsilon_dpo.report.page.charts import kl_against_win_rate, score_against_kl, win_rates
from epsilon_dpo.report.page.charts_training import (
    adapted_beta,
    beta_over_time,
    decides,
    draw_beta_decisions,
    training_curves,
)
from epsilon_dpo.report.page.control import SLIDES, control, furthest_below_zero
from epsilon_dpo.report.page.controls import controls, qualification
from epsilon_dpo.report.page.examples import examples
from epsilon_dpo.report.page.groups import group_rates
from epsilon_dpo.report.page.judging import columns, cost, judging
from epsilon_dpo.report.page.methods import method_comparisons, method_statements
from epsilon_dpo.report.page.replication import NONE as NO_REPLICATION
from epsilon_dpo.report.page.replication import Replication
from epsilon_dpo.report.page.results import Results
from epsilon_dpo.report.page.statements import comparisons, is_decided, statements
from epsilon_dpo.report.page.tables import (
    ESTIMATORS,
    FEW,
    beta_decisions,
    curves,
    dvc_metrics,
    is_extreme,
    policies,
    summary,
)
from epsilon_dpo.report.page.tournament import places, ranking, side_by_side
from epsilon_dpo.report.page.uncertainty import splits, variance
from epsilon_dpo.report.style.plot_style import marks
from epsilon_dpo.report.style.signs import fixed, percent

TEMPLATE, MACROS, STYLE = "report.html.jinja", "macros.html.jinja", "report.css"
# Of sections/ beside this file, in the page's order.
SECTIONS = (
    "headline.html.jinja",
    "win_rates.html.jinja",
    "distance.html.jinja",
    "control.html.jinja",
    "run_against_run.html.jinja",
    "seeds.html.jinja",
    "tournament.html.jinja",
    "training.html.jinja",
    "beta.html.jinja",
    "paper.html.jinja",
    "replication.html.jinja",
    "answers.html.jinja",
    "judging.html.jinja",
    "trust.html.jinja",
    "data.html.jinja",
    "provenance.html.jinja",
)
JUDGES = {
    "trained": "a small PairRM trained on the training pairs",
    "pretrained": "PairRM ({origin})",
    "trained_reward": "a reward model {origin}",
    "reward_model": "the reward model {origin}",
    "sentiment": "a sentiment classifier ({origin})",
    "llm": "the language model {origin}",
}


def write_report(
    results: Results,
    example_count: int,
    out: Path,
    certificates: Certificates = NONE,
    replication: Replication = NO_REPLICATION,
) -> dict[str, Any]:
    """Fill `out`: report.html, figures/*.png, summary.json, metrics.json, and a CSV file per table that has rows.

    Returns:
        the content of summary.json.
    """
    table, compared, judged = policies(results), comparisons(results), judging(results)
    methods, found = method_comparisons(results), splits(results)
    said = statements(results, compared) + method_statements(results, methods) + qualification(results)
    content = summary(results, compared, methods, said) | {"judge_controls": controls(results)}
    tables = {
        "runs": table,
        "training": curves(results),
        "comparisons": compared,
        "groups": group_rates(results),
        "method_comparisons": methods,
        "variance": variance(found),
        "ranking": ranking(results),
        "judging": judged,
        "control": control(results),
    }
    for name, rows in tables.items():
        if rows:
            write_csv(out / f"{name}.csv", rows)
    write_json(out / "summary.json", content)
    write_json(out / "metrics.json", dvc_metrics(table, results.sampled_under))
    page = _render(
        results=results,
        table=table,
        said=said,
        pairs=_pair_by_pair(compared),
        method_pairs=_pair_by_pair(methods),
        groups=tables["groups"],
        splits=[split for split in found if split.opponent == CHOSEN],
        sampling_told=any(part.sources == ("sampling",) for split in found for part in split.parts),
        is_decided=is_decided,
        is_extreme=is_extreme,
        few=FEW,
        estimators=ESTIMATORS,
        tournament=side_by_side(results),
        control=tables["control"],
        slides=SLIDES,
        below=furthest_below_zero(tables["control"]),
        figures=_draw(results, table, tables["control"], out / "figures"),
        examples=examples(results, example_count),
        judging=judged,
        judged_by=columns(judged),
        judge_cost=cost(results),
        decisions={run.name: beta_decisions(run) for run in results.runs},
        certificates=certificates,
        replication=replication,
        files=["summary.json", *sorted(file.name for file in out.glob("*.csv"))],
    )
    (out / "report.html").write_text(page, "utf-8")
    return content


def _pair_by_pair(compared: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    return [list(rows) for _, rows in groupby(compared, key=lambda row: (row["first"], row["second"]))]


class Drawn(NamedTuple):
    """A figure as the page holds it: a data URI and its alt text."""

    source: str
    alt: str


def _draw(
    results: Results, table: list[dict[str, Any]], controlled: list[dict[str, Any]], folder: Path
) -> dict[str, Drawn]:
    """Draw the figures that these runs allow; returns them by name."""
    folder.mkdir()
    look, under = marks([run.name for run in results.runs]), results.sampled_under
    adapting = [run for run in results.runs if adapted_beta(run)]
    deciding = [run for run in results.runs if decides(run)]
    win_rates(folder / "win_rates.png", table, look)
    kl_against_win_rate(folder / "kl_win_rate.png", table, look, under)
    training_curves(folder / "training.png", results.runs, look)
    alts = {
        "win_rates": win_rates_alt(table),
        "kl_win_rate": kl_alt(table, under),
        "training": training_alt(results.runs),
    }
    if controlled:
        score_against_kl(folder / "control.png", controlled, look, under)
        alts["control"] = control_alt(controlled, under)
    if adapting:
        beta_over_time(folder / "beta.png", adapting, look)
        alts["beta"] = beta_alt(adapting)
    if deciding:
        draw_beta_decisions(folder / "beta_decisions.png", deciding)
        alts["beta_decisions"] = beta_decisions_alt(deciding)
    return {name: Drawn(data_uri((folder / f"{name}.png").read_bytes()), alt) for name, alt in alts.items()}


def data_uri(png: bytes) -> str:
    """An image as the page holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def settings(config: dict[str, Any]) -> str:
    """A run's config as params.yaml states it, without its method: `beta 0.3, update soft`."""
    return ", ".join(f"{key} {in_yaml(value)}" for key, value in config.items() if key != "method")


def _judge_name(judge: Row) -> str:
    return JUDGES[judge["source"]].format(**judge)


def _render(results: Results, **content: Any) -> str:
    loader = PackageLoader("epsilon_dpo.report.page", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters: dict[str, Callable[..., str]] = {
        "percent": percent,
        "fixed": fixed,
        "points": lambda x: fixed(100 * x, 1, plus=True),
        "signed": lambda x: fixed(x, 0, plus=True),
        "places": places,
        "number": lambda x: f"{x:,.0f}",  # counts alone
        "settings": settings,
        "shaping": lambda x: ", ".join(f"{name} {value:g}" for name, value in x.items()),
        "data_uri": data_uri,
    }
    environment.filters |= filters
    return environment.get_template(TEMPLATE).render(
        style=loader.get_source(environment, STYLE)[0],
        macros=MACROS,
        sections=SECTIONS,
        contents=[],  # what the headings of the sections add to it
        narrow_ones=[],  # those of a table that are marked as too narrow
        results=results,
        level=f"{100 * results.confidence:g} %",
        judge_name=_judge_name(results.judge),
        teacher_name=None if results.teacher is None else _judge_name(results.teacher),
        broken=[finding for finding in results.validation["expectations"] if not finding["success"]],
        **content,
    )
