"""How figures look: the Okabe-Ito colours, which colour-blind readers can tell apart, and marks that survive print.

Every policy keeps its colour and marker within a figure. Files carry no software version and no date, so
the same values give the same bytes.
"""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from epsilon_dpo.pipeline.stage.runs import SFT

REFERENCE = "#4d4d4d"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "h", "p")
INK, GRID = "#222222", "#dddddd"
DOTS_PER_INCH = 160
CHARACTERS_PER_INCH, LEGEND_MARK = 12, 7  # of the legend; the second is a mark's width, in characters
LEGEND_LINE = 0.19  # inches

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
}


@dataclass(frozen=True)
class Mark:
    colour: str
    marker: str


def marks(runs: list[str]) -> dict[str, Mark]:
    """A mark per policy: `sft` in grey, runs in the order given; 66 differ."""
    found = {SFT: Mark(REFERENCE, "*")}
    for number, run in enumerate(runs):
        found[run] = Mark(COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)])
    return found


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` x `height` inches, written to `path` as PNG when the block ends."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # without what a matplotlibrc of the user's says
        matplotlib.rcParams.update(SETTINGS)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})


def legend_columns(
    width: float, labels: Sequence[str], per_inch: int = CHARACTERS_PER_INCH, mark: int = LEGEND_MARK
) -> int:
    """Columns of a legend in a figure `width` inches wide: as many as the longest label leaves room for.

    Args:
        per_inch: characters that an inch has room for.
        mark: a mark's width, in characters.
    """
    longest = max(len(label) for label in labels)
    return min(len(labels), max(1, int(width * per_inch / (longest + mark))))


def handle(label: str, mark: Mark, hollow: bool = False) -> Line2D:
    """Of a legend."""
    face = "white" if hollow else mark.colour
    return Line2D([], [], color=mark.colour, marker=mark.marker, markerfacecolor=face, linestyle="", label=label)


def reach(name: str, *rows: dict[str, Any]) -> list[list[float]]:
    """Of error bars: how far each row's interval of `name` reaches below its value, and above it."""
    return [[row[name] - row[f"{name}_low"] for row in rows], [row[f"{name}_high"] - row[name] for row in rows]]


def legend(figure: Figure, handles: list[Line2D]) -> None:
    """Below the panels."""
    columns = legend_columns(figure.get_figwidth(), [str(handle.get_label()) for handle in handles])
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def labelled_kl(label: str, under: str, room: int) -> str:
    """`label`, of a KL over sampled answers, and why it is not the policies': images are also seen without captions.

    Args:
        under: the settings of sampling under which it is not, as in `sampled_under`; empty if none.
        room: characters of a line.
    """
    return "\n".join([label, *textwrap.wrap(f"under {under}: not the policies' KL", room)]) if under else label


def percent(panel: Axes, which: str) -> None:
    """Label the x or y axis of shares in percent, each tick with exactly the value of its position."""
    axis = panel.xaxis if which == "x" else panel.yaxis
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{round(100 * share, 6):g}%"))
