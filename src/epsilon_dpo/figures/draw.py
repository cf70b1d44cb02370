"""Figures 3 to 5 as images: readable in print and for the colour-blind (report/style.py)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from epsilon_dpo.figures.margins import DECREASING, INCREASING
from epsilon_dpo.figures.pareto import Pareto
from epsilon_dpo.figures.points import KL, Row
from epsilon_dpo.report.style import COLOURS, INK, LEGEND_LINE, Mark, drawing, legend, legend_columns, marks, percent

KL_LABEL = "KL(reference ‖ policy), nats per answer"
WIDTH = 10.2  # inches, of every figure
RATIO_TITLES = {"eps/p_ratio": "Pairs with β lowered", "eps/n_ratio": "Pairs with β raised"}
GROUP_MARKS = {DECREASING: Mark(COLOURS[0], "o"), INCREASING: Mark(COLOURS[1], "s")}


def draw_pareto(path: Path, found: Pareto, sft: dict[str, float]) -> None:
    """A panel per scorer: points with their intervals, hollow if dominated; staircases with bands; hypervolumes."""
    families = list(dict.fromkeys(row["family"] for row in found.points))
    look = marks(families)
    scorers = list(sft)
    has_frontiers = bool(found.frontiers)
    with drawing(path, WIDTH, 4.2 + LEGEND_LINE * _lines(families)) as figure:
        widths = [3.0] * len(scorers) + [2.2] * has_frontiers
        panels = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
        for panel, scorer in zip(panels, scorers, strict=False):
            _frontiers(panel, found, scorer, look)
            _points(panel, [row for row in found.points if row["scorer"] == scorer], look)
            panel.plot([0.0], [sft[scorer]], look["sft"].marker, color=look["sft"].colour, markersize=10)
            panel.set_title(f"By the {scorer}")
            panel.set_xlabel(KL_LABEL)
            panel.set_xlim(left=-0.02 * panel.get_xlim()[1])
            percent(panel, "y")
            panel.sharey(panels[0])
        panels[0].set_ylabel("win rate against the chosen answers")
        if has_frontiers:
            _hypervolumes(panels[-1], found, look)
        handles = [_handle("SFT", look["sft"]), *(_handle(family, look[family]) for family in families)]
        legend(figure, handles)


def _frontiers(panel: Axes, found: Pareto, scorer: str, look: dict[str, Mark]) -> None:
    for family, one in found.frontiers.get(scorer, {}).items():
        panel.fill_between(one.kl, one.low, one.high, step="post", color=look[family].colour, alpha=0.13, linewidth=0)
        panel.step(one.kl, one.win_rate, where="post", color=look[family].colour, linewidth=1.3)


def _points(panel: Axes, rows: list[Row], look: dict[str, Mark]) -> None:
    for row in rows:
        mark = look[row["family"]]
        panel.errorbar(
            row["kl"],
            row["win_rate"],
            xerr=_reach(row, "kl"),
            yerr=_reach(row, "win_rate"),
            fmt=mark.marker,
            color=mark.colour,
            markerfacecolor="white" if row["dominated"] else mark.colour,
            markersize=6,
            elinewidth=0.8,
        )


def _hypervolumes(panel: Axes, found: Pareto, look: dict[str, Mark]) -> None:
    rows = found.hypervolumes()
    families = list(dict.fromkeys(row["family"] for row in rows))
    scorers = list(found.frontiers)
    for row in rows:
        mark, number = look[row["family"]], scorers.index(row["scorer"])
        panel.errorbar(
            row["hypervolume"],
            families.index(row["family"]) + 0.24 * (number - (len(scorers) - 1) / 2),
            xerr=_reach(row, "hypervolume"),
            fmt=mark.marker,
            color=mark.colour,
            markerfacecolor=mark.colour if number == 0 else "white",
            markersize=5.5,
            capsize=2.5,
            elinewidth=1.2,
        )
    panel.set_yticks([])
    panel.set_ylim(len(families) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)
    panel.set_title("Hypervolume" + (" (hollow: true reward)" if len(scorers) > 1 else ""), fontsize=9)
    panel.set_xlabel("nats × win rate over SFT's")


def draw_dynamics(path: Path, trajectories: list[Row], decided: list[Row], labels: dict[str, str]) -> None:
    """Above: KL and win rates by epoch, and against each other. Below: shares of lowered and raised beta by step."""
    runs = list(labels)
    look = marks(runs)
    metrics = list(dict.fromkeys(row["metric"] for row in trajectories))
    with drawing(path, WIDTH, 5.6 + LEGEND_LINE * _lines(list(labels.values()))) as figure:
        above, below = figure.subfigures(2, 1, height_ratios=[1.1, 1.0], squeeze=False)[:, 0]
        panels = above.subplots(1, len(metrics) + 1, squeeze=False)[0]
        for panel, metric in zip(panels, metrics, strict=False):
            for run in runs:
                _curve(panel, [row for row in trajectories if (row["run"], row["metric"]) == (run, metric)], look[run])
            panel.set_title("KL from the reference, nats" if metric == KL else metric.capitalize())
            panel.set_xlabel("epoch")
            if metric != KL:
                percent(panel, "y")
        _against(panels[-1], trajectories, runs, metrics[-1], look)
        lower = below.subplots(1, len(RATIO_TITLES), sharey=True)
        for panel, (metric, title) in zip(lower, RATIO_TITLES.items(), strict=True):
            for run in runs:
                rows = [row for row in decided if (row["run"], row["metric"]) == (run, metric)]
                panel.plot([row["step"] for row in rows], [row["smoothed"] for row in rows], color=look[run].colour)
            panel.set_title(title)
            panel.set_xlabel("optimizer step")
            percent(panel, "y")
        legend(figure, [_handle(labels[run], look[run], "-") for run in runs])


def _curve(panel: Axes, rows: list[Row], mark: Mark) -> None:
    values = [row["value"] for row in rows]
    reach = [
        [v - row["low"] for v, row in zip(values, rows, strict=True)],
        [row["high"] - v for v, row in zip(values, rows, strict=True)],
    ]
    panel.errorbar(
        [row["epoch"] for row in rows],
        values,
        yerr=reach,
        color=mark.colour,
        marker=mark.marker,
        markersize=5,
        linewidth=1.3,
        elinewidth=0.8,
    )


def _against(panel: Axes, trajectories: list[Row], runs: list[str], metric: str, look: dict[str, Mark]) -> None:
    for run in runs:
        own = {
            name: [r["value"] for r in trajectories if (r["run"], r["metric"]) == (run, name)] for name in (KL, metric)
        }
        panel.plot(own[KL], own[metric], color=look[run].colour, marker=look[run].marker, markersize=5, linewidth=1.3)
    panel.set_title(f"{metric.capitalize()}")
    panel.set_xlabel(KL_LABEL, fontsize=8)
    percent(panel, "y")


def draw_margins(path: Path, rows: list[Row], runs: Sequence[str]) -> None:
    """A line per run, a mark per group: implicit reward margin, raw margin, how often the first order decides."""
    panels_of = {
        "implicit_margin": "Implicit reward margin β h",
        "margin": "Log-ratio margin h, nats",
        "first_order_agreement": "Decision is the sign of\nh − (K(chosen) − K(rejected))",
    }
    with drawing(path, WIDTH, 1.4 + 0.34 * len(runs)) as figure:
        panels = figure.subplots(1, 3, sharey=True)
        for panel, (name, title) in zip(panels, panels_of.items(), strict=True):
            for row in rows:
                if name not in row:
                    continue
                mark = GROUP_MARKS[row["group"]]
                y = runs.index(row["run"]) + (-0.14 if row["group"] == DECREASING else 0.14)
                reach = _reach(row, name) if f"{name}_low" in row else None
                panel.errorbar(
                    row[name],
                    y,
                    xerr=reach,
                    fmt=mark.marker,
                    color=mark.colour,
                    markersize=5,
                    capsize=2.5,
                    elinewidth=1.2,
                )
            panel.set_title(title)
            panel.grid(axis="y", visible=False)
            if name == "first_order_agreement":
                percent(panel, "x")
            else:
                panel.axvline(0.0, color=INK, linewidth=0.9)
        panels[0].set_yticks(range(len(runs)), runs)
        panels[0].set_ylim(len(runs) - 0.5, -0.5)
        legend(figure, [_handle(f"{group} as β rises", mark) for group, mark in GROUP_MARKS.items()])


def _lines(labels: list[str]) -> int:
    return -(-(len(labels) + 1) // legend_columns(WIDTH, labels))


def _handle(label: str, mark: Mark, line: Literal["", "-"] = "") -> Line2D:
    return Line2D([], [], color=mark.colour, marker=mark.marker, linestyle=line, label=label)


def _reach(row: Row, name: str) -> list[list[float]]:
    return [[row[name] - row[f"{name}_low"]], [row[f"{name}_high"] - row[name]]]
