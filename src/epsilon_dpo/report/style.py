"""How figures look: the Okabe-Ito colours, which colour-blind readers can tell apart, and marks that survive print.

Every policy keeps its colour, marker and line through all figures. Files carry no software version and no date, so
the same numbers give the same bytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

REFERENCE = "#4d4d4d"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
LINES = ("-", (0, (5, 1.5)), "-.", (0, (1, 1)))
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "h")
INK, GRID = "#222222", "#dddddd"
DOTS_PER_INCH = 160
CHARACTERS_PER_INCH, LEGEND_MARK = 12, 7  # of the legend; a mark is as wide as so many characters

SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same on every machine
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "path.simplify": True,
}


@dataclass(frozen=True)
class Mark:
    colour: str
    marker: str
    line: Any


def marks(runs: list[str]) -> dict[str, Mark]:
    """A mark per policy: `sft` in grey, runs in the order given; 30 differ in mark, 12 in line."""
    found = {"sft": Mark(REFERENCE, "*", "-")}
    for number, run in enumerate(runs):
        found[run] = Mark(
            COLOURS[number % len(COLOURS)],
            MARKERS[number % len(MARKERS)],
            LINES[number % len(LINES)],
        )
    return found


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` x `height` inches, written to `path` as PNG when the block ends."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})


def legend(figure: Figure, handles: list[Line2D]) -> None:
    """Below the panels, in as many columns as the longest label leaves room for."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, int(figure.get_figwidth() * CHARACTERS_PER_INCH / (longest + LEGEND_MARK)))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)))


def percent(axis: Axes, which: str) -> None:
    """Label the x or y axis of shares in percent."""
    chosen = axis.xaxis if which == "x" else axis.yaxis
    chosen.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
