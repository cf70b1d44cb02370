"""Over-optimisation as an image: a panel per family, in each the reward model's promise and the truth over KL."""

import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from epsilon_dpo.report.figures.over_optimisation import REWARDS
from epsilon_dpo.report.figures.points import Row
from epsilon_dpo.report.figures.printed import CHARACTERS_PER_INCH, WIDTH, below, error_point, printed
from epsilon_dpo.report.figures.root_axis import root_axis
from epsilon_dpo.report.style.plot_style import COLOURS, INK, Mark, labelled_kl

COLUMNS = 3  # at most
ROOM = 85  # characters of tick labels, over all columns
ROOM_OF_LABEL = 34  # characters below a panel
LOOK = dict(zip(REWARDS, (Mark(COLOURS[1], "s"), Mark(COLOURS[0], "o")), strict=True))
LABELS = {"judge": "by the judge", "true reward": "by the true reward"}


def draw_over_optimisation(path: Path, rows: list[Row], under: str) -> None:
    """Rewards above the reference's over KL(policy ‖ reference); `under` as in `labelled_kl`."""
    families = list(dict.fromkeys(row["family"] for row in rows))
    columns = min(COLUMNS, len(families))
    lines = -(-len(families) // columns)
    with printed(path, 0.4 + 2.8 * lines, list(LABELS.values())) as figure:
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
        figure.supylabel("reward above the reference's, nats", fontsize="medium")
        right = 1.05 * max([row["kl_high"] for row in rows] + [1e-6])
        for family, panel in zip(families, grid.flat, strict=False):
            panel.set_xlabel(labelled_kl("KL(policy ‖ reference), nats", under, ROOM_OF_LABEL))
            panel.set_title(textwrap.fill(family, int(CHARACTERS_PER_INCH * WIDTH / columns) - 3))
            root_axis(panel, right, ROOM / columns)
            panel.axhline(0.0, color=INK, linewidth=1.0)
            for scorer in LOOK:
                _curve(panel, [row for row in rows if (row["family"], row["scorer"]) == (family, scorer)], LOOK[scorer])
        for panel in list(grid.flat)[len(families) :]:
            panel.remove()
        handles = [
            Line2D([], [], color=look.colour, marker=look.marker, label=LABELS[name]) for name, look in LOOK.items()
        ]
        below(figure, handles)


def _curve(panel: Axes, rows: list[Row], mark: Mark) -> None:
    """From the reference at 0 through the policies in the order of their KL."""
    ordered = sorted(rows, key=lambda row: float(row["kl"]))
    x, y = [0.0, *(row["kl"] for row in ordered)], [0.0, *(row["reward"] for row in ordered)]
    panel.plot(x, y, color=mark.colour, linewidth=1.4)
    for row in ordered:
        error_point(panel, row, "kl", "reward", mark, 5.5)
