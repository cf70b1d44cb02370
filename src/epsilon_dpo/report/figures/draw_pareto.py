"""Figure 5 as an image: a panel for every family and scorer, so that no band lies on another."""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from epsilon_dpo.pipeline.stage.runs import SFT
from epsilon_dpo.report.figures.pareto import Pareto
from epsilon_dpo.report.figures.printed import CHARACTERS_PER_INCH, WIDTH, below, error_point, printed
from epsilon_dpo.report.figures.root_axis import root_axis
from epsilon_dpo.report.style.plot_style import INK, REFERENCE, Mark, handle, labelled_kl, marks, percent, reach

COLUMNS = 5  # at most
ROOM = 85  # characters of tick labels, over all columns
OTHERS = "#b5b5b5"
SINGLES = "one value of β each"


def draw_pareto(path: Path, found: Pareto, sft: dict[str, float], under: str = "") -> None:
    """Frontiers by family (columns) and scorer (rows), points hollow if dominated; below, the hypervolumes.

    Families of a single policy, which have no frontier, share the last panel. `under` as in `labelled_kl`.
    """
    families = list(dict.fromkeys(row["family"] for row in found.points))
    swept = list(next(iter(found.frontiers.values()), {}))  # the same by each scorer
    singles = [family for family in families if family not in swept]
    panels = {family: [family] for family in swept} | ({SINGLES: singles} if singles else {})
    look = marks(families)
    handles = _handles(found, look, swept, singles)
    alone = len(panels) == 1
    blocks = -(-len(panels) // COLUMNS)
    height = 0.7 * blocks + (3.2 if alone else 2.3 * (blocks * len(sft)))
    heights = [height, 1.0 + 0.34 * len(swept)] if swept else [height]
    with printed(path, sum(heights), [str(entry.get_label()) for entry in handles]) as figure:
        parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        parts[0].supxlabel(labelled_kl("KL(reference ‖ policy), nats per answer", under, 90), fontsize="medium")
        cells = _cells(parts[0], len(panels), len(sft))
        columns = cells[0, 0].get_gridspec().ncols
        for (title, own), by_scorer in zip(panels.items(), cells, strict=True):
            if swept:
                by_scorer[0].set_title(textwrap.fill(title, int(CHARACTERS_PER_INCH * WIDTH / columns) - 3))
            for panel, (scorer, floor) in zip(by_scorer, sft.items(), strict=True):
                _draw(panel, found, scorer, own, look)
                _axes(panel, found, scorer, floor, ROOM / columns)
                panel.plot([0.0], [floor], "*", color=REFERENCE, markersize=12, clip_on=False, zorder=5)
                if alone or panel.get_subplotspec().is_first_col():
                    panel.set_ylabel(f"win rate by\nthe {scorer}")
                else:
                    panel.tick_params(labelleft=False)
        if swept:
            _hypervolumes(parts[1], found, swept, look)
        below(figure, handles)


def _cells(part: SubFigure, panels: int, scorers: int) -> NDArray[np.object_]:
    """The axes of each panel for each scorer, [panels, scorers].

    Blocks of panels beside one another have a row for every scorer; where there is one panel alone, there is room for
    its scorers side by side.
    """
    if panels == 1:
        return part.subplots(1, scorers, squeeze=False)
    blocks = -(-panels // COLUMNS)
    grid = part.subplots(blocks * scorers, -(-panels // blocks), squeeze=False)
    cells = grid.reshape(blocks, scorers, -1).swapaxes(1, 2).reshape(-1, scorers)
    for unused in cells[panels:].flat:
        unused.remove()
    return cells[:panels]


def _handles(found: Pareto, look: dict[str, Mark], swept: list[str], singles: list[str]) -> list[Artist]:
    plain, hollow = Mark(INK, "o"), any(row["dominated"] for row in found.points)
    return [
        handle("SFT", look[SFT]),
        *([handle("dominated", plain, hollow=True)] if hollow else []),
        *([Patch(facecolor=OTHERS, edgecolor=INK, linewidth=1.0, label="frontier and band")] if swept else []),
        *([Line2D([], [], color=OTHERS, label="other families' frontiers")] if swept and len(look) > 2 else []),
        *(handle(family, look[family]) for family in singles),
    ]


def _axes(panel: Axes, found: Pareto, scorer: str, sft: float, room: float) -> None:
    """Limits that leave no point, interval or band out, equal for all panels of a scorer; KL on a scale of roots."""
    rows = [row for row in found.points if row["scorer"] == scorer]
    bands = found.frontiers.get(scorer, {}).values()
    right = 1.05 * max([row["kl_high"] for row in rows] + [1e-6])
    root_axis(panel, right, room)
    low = min([row["win_rate_low"] for row in rows] + [sft])
    high = max([row["win_rate_high"] for row in rows] + [float(band.high.max()) for band in bands] + [sft])
    panel.set_ylim(low - 0.06 * (high - low) - 1e-3, high + 0.06 * (high - low) + 1e-3)
    percent(panel, "y")


def _draw(panel: Axes, found: Pareto, scorer: str, own: list[str], look: dict[str, Mark]) -> None:
    """The frontiers, those of other families than `own` in grey, and the policies of `own`."""
    for family, one in found.frontiers.get(scorer, {}).items():
        if family in own:
            colour = look[family].colour
            panel.fill_between(one.kl, one.low, one.high, step="post", color=colour, alpha=0.2, linewidth=0, zorder=1.5)
            panel.step(one.kl, one.win_rate, where="post", color=colour, linewidth=2.2)
        else:
            panel.step(one.kl, one.win_rate, where="post", color=OTHERS, linewidth=1.1, zorder=1.8)
    for row in found.points:
        if row["scorer"] == scorer and row["family"] in own:
            error_point(panel, row, "kl", "win_rate", look[row["family"]], 8, row["dominated"])


def _hypervolumes(part: SubFigure, found: Pareto, families: list[str], look: dict[str, Mark]) -> None:
    panels = part.subplots(1, len(found.frontiers), sharey=True, squeeze=False)[0]
    for panel, scorer in zip(panels, found.frontiers, strict=True):
        for row in found.hypervolumes():
            if row["scorer"] != scorer:
                continue
            mark = look[row["family"]]
            panel.errorbar(
                row["hypervolume"],
                families.index(row["family"]),
                xerr=reach("hypervolume", row),
                fmt=mark.marker,
                color=mark.colour,
                markersize=8,
                capsize=3.5,
                elinewidth=1.6,
            )
        panel.grid(axis="y", visible=False)
        panel.set_title(f"Hypervolume by the {scorer}")
        panel.set_xlabel("nats × win rate over SFT's")
    panels[0].set_yticks(range(len(families)), families)
    panels[0].set_ylim(len(families) - 0.5, -0.5)
