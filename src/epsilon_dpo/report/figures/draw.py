"""Figures 3 and 4 as images: readable in print and for the colour-blind (report/style/plot_style.py)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from epsilon_dpo.report.figures.margins import DECREASING, INCREASING
from epsilon_dpo.report.figures.points import KL, Row
from epsilon_dpo.report.figures.printed import below, printed
from epsilon_dpo.report.style.plot_style import COLOURS, INK, Mark, handle, labelled_kl, marks, percent, reach

RATIO_TITLES = {"eps/lowered": "Pairs with β lowered", "eps/raised": "Pairs with β raised"}
GROUP_MARKS = {DECREASING: Mark(COLOURS[0], "o"), INCREASING: Mark(COLOURS[1], "s")}
MARGIN_TITLES = {"implicit_margin": "Implicit reward margin β h", "margin": "Log-ratio margin h, nats"}
DECISIONS_TITLE = "Decisions that are the sign of\nh − (K(chosen) − K(rejected))"
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
PANELS = 3  # of Figure 3, side by side
ROOM = 32  # characters of a title above one of them


@dataclass(frozen=True)
class Line:
    """How a run's line is drawn: where lines coincide, the first is the widest, so that each shows below the next."""

    mark: Mark
    dashes: Any
    width: float


def draw_dynamics(path: Path, trajectories: list[Row], decided: list[Row], labels: dict[str, str], under: str) -> None:
    """KL and win rates by epoch, the last against KL; shares of lowered and raised beta by step, if any are logged.

    `under` as in `labelled_kl`.
    """
    kl_label = labelled_kl("KL from the reference, nats", under, ROOM)
    look = marks(list(labels))
    lines = {
        run: Line(look[run], DASHES[number % len(DASHES)], 1.4 + 2.1 * (1 - (number + 1) / len(labels)))
        for number, run in enumerate(labels)
    }
    metrics = list(dict.fromkeys(row["metric"] for row in trajectories))
    titles = RATIO_TITLES if decided else {}
    count = len(metrics) + 1 + len(titles)
    with printed(path, 3.1 * -(-count // PANELS), list(labels.values())) as figure:
        panels = iter(figure.subplots(-(-count // PANELS), PANELS, squeeze=False).flat)
        for metric in metrics:
            panel = next(panels)
            _by_epoch(panel, [row for row in trajectories if row["metric"] == metric], lines)
            panel.set_title(kl_label if metric == KL else metric.capitalize())
            panel.set_xlabel("epoch")
            if metric != KL:
                percent(panel, "y")
        _against(next(panels), trajectories, metrics[-1], lines, kl_label)
        top = max((row["smoothed"] for row in decided), default=0.0)
        for metric, title in titles.items():
            panel = next(panels)
            _by_step(panel, [row for row in decided if row["metric"] == metric], lines)
            panel.set_title(title)
            panel.set_ylim(-0.02, 1.06 * top + 0.02)  # of both shares, to compare them
        for unused in panels:
            unused.remove()
        below(figure, [_line_handle(labels[run], line) for run, line in lines.items()])


def _by_epoch(panel: Axes, rows: list[Row], lines: dict[str, Line]) -> None:
    """Each run a little to the side of the others, so that their intervals do not hide one another."""
    epochs = sorted({row["epoch"] for row in rows})
    apart = 0.12 * min([b - a for a, b in pairwise(epochs) if b - a > 0.02] + [0.4])
    for number, (run, line) in enumerate(lines.items()):
        own = [row for row in rows if row["run"] == run]
        aside = apart * (number - (len(lines) - 1) / 2) * min(1.0, 3 / len(lines))
        x, y = [row["epoch"] + aside for row in own], [row["value"] for row in own]
        bars = [[row["value"] - row["low"] for row in own], [row["high"] - row["value"] for row in own]]
        panel.errorbar(x, y, yerr=bars, fmt="none", ecolor=line.mark.colour, elinewidth=1.3, capsize=2.5)
        _draw(panel, x, y, line)


def _by_step(panel: Axes, rows: list[Row], lines: dict[str, Line]) -> None:
    for number, (run, line) in enumerate(lines.items()):
        own = [row for row in rows if row["run"] == run]
        every = max(1, len(own) // 5)
        marked = slice(number * every // len(lines), None, every)  # where lines coincide, so do no marks
        _draw(panel, [row["step"] for row in own], [row["smoothed"] for row in own], line, marked)
    panel.set_xlabel("optimizer step")
    percent(panel, "y")


def _against(panel: Axes, trajectories: list[Row], metric: str, lines: dict[str, Line], kl_label: str) -> None:
    for run, line in lines.items():
        own = {
            name: [r["value"] for r in trajectories if (r["run"], r["metric"]) == (run, name)] for name in (KL, metric)
        }
        _draw(panel, own[KL], own[metric], line)
    panel.set_title(metric.capitalize())
    panel.set_xlabel(kl_label)
    percent(panel, "y")


def _draw(panel: Axes, x: list[float], y: list[float], line: Line, marked: slice | None = None) -> None:
    colour, marker = line.mark.colour, line.mark.marker
    panel.plot(x, y, linestyle=line.dashes, linewidth=line.width, color=colour)
    panel.plot(x, y, marker, color=colour, markersize=8, markeredgecolor="white", markevery=marked)


def _line_handle(label: str, line: Line) -> Line2D:
    colour, marker = line.mark.colour, line.mark.marker
    return Line2D([], [], color=colour, marker=marker, linestyle=line.dashes, linewidth=line.width, label=label)


def draw_margins(path: Path, rows: list[Row], runs: Sequence[str]) -> None:
    """A line per run, a mark per group: implicit reward margin, raw margin, how often a sign tells the decision.

    Without a panel for the first where no row has one.
    """
    handles = [handle(f"{group} as β rises", mark) for group, mark in GROUP_MARKS.items()]
    handles.append(handle("hollow: the sign of h alone", Mark(INK, "D"), hollow=True))
    with printed(path, 1.4 + 0.36 * len(runs), [str(entry.get_label()) for entry in handles]) as figure:
        names = [name for name in MARGIN_TITLES if name == "margin" or any(name in row for row in rows)]
        *of_margins, of_decisions = panels = figure.subplots(1, len(names) + 1, sharey=True)
        for row in rows:
            mark = GROUP_MARKS[row["group"]]
            y = runs.index(row["run"]) + (-0.16 if row["group"] == DECREASING else 0.16)
            for panel, name in zip(of_margins, names, strict=True):
                if name in row:
                    panel.errorbar(
                        row[name],
                        y,
                        xerr=reach(name, row),
                        fmt=mark.marker,
                        color=mark.colour,
                        markersize=6,
                        capsize=3,
                        elinewidth=1.6,
                    )
            for name, face in (("sign_of_h_agreement", "white"), ("first_order_agreement", mark.colour)):
                of_decisions.plot(
                    row[name], y, mark.marker, color=mark.colour, markerfacecolor=face, markersize=6, clip_on=False
                )
        for panel, title in zip(panels, [*(MARGIN_TITLES[name] for name in names), DECISIONS_TITLE], strict=True):
            panel.set_title(title)
            panel.grid(axis="y", visible=False)
            for y in range(0, len(runs), 2):
                panel.axhspan(y - 0.5, y + 0.5, color="#f4f4f4", linewidth=0, zorder=0)
        for panel in of_margins:
            panel.axvline(0.0, color=INK, linewidth=1.2)
        lowest = min([row[name] for row in rows for name in ("sign_of_h_agreement", "first_order_agreement")] + [0.9])
        of_decisions.set_xlim(lowest - 0.1 * (1.0 - lowest), 1.0)
        percent(of_decisions, "x")
        panels[0].set_yticks(range(len(runs)), runs)
        panels[0].set_ylim(len(runs) - 0.5, -0.5)
        below(figure, handles)
