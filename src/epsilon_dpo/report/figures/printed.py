"""What the drawings of the paper's figures share: letters that can still be read when printed, points, legends."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from epsilon_dpo.report.figures.points import Row
from epsilon_dpo.report.style.plot_style import Mark, drawing, legend_columns, reach

WIDTH = 10.2  # inches, of every figure
LETTERS = 11.5  # points: 7 of them remain when WIDTH is printed 16 cm wide
CHARACTERS_PER_INCH, LEGEND_MARK = 11, 9  # of LETTERS; the second is the width of a legend's mark, in characters
LEGEND_LINE = 0.25  # inches


@contextmanager
def printed(path: Path, height: float, labels: Sequence[str]) -> Iterator[Figure]:
    """A figure of WIDTH, `height` inches high without its legend of `labels`."""
    with drawing(path, WIDTH, height + LEGEND_LINE * -(-len(labels) // _columns(labels))) as figure:
        # `drawing` restores what it found, but only after it has written the file
        matplotlib.rcParams.update({"font.size": LETTERS, "axes.titlesize": LETTERS})
        yield figure


def below(figure: Figure, handles: Sequence[Artist]) -> None:
    """The legend, below the panels."""
    columns = _columns([str(handle.get_label()) for handle in handles])
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _columns(labels: Sequence[str]) -> int:
    return legend_columns(WIDTH, labels, CHARACTERS_PER_INCH, LEGEND_MARK)


def error_point(panel: Axes, row: Row, x: str, y: str, mark: Mark, size: float, hollow: bool = False) -> None:
    """`row` at its values of `x` and `y`, with the intervals of both."""
    panel.errorbar(
        row[x],
        row[y],
        xerr=reach(x, row),
        yerr=reach(y, row),
        fmt=mark.marker,
        color=mark.colour,
        markerfacecolor="white" if hollow else mark.colour,
        markersize=size,
        elinewidth=1.2,
        zorder=3,
    )
