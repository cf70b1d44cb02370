"""The figures of the comparison: who wins, and at what distance from the reference."""

import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from epsilon_dpo.pipeline.stage.runs import CHOSEN, SFT
from epsilon_dpo.report.page.results import Row
from epsilon_dpo.report.style.plot_style import (
    INK,
    LEGEND_LINE,
    Mark,
    drawing,
    handle,
    labelled_kl,
    legend,
    legend_columns,
    percent,
    reach,
)

TITLES = {CHOSEN: "against the chosen answers", SFT: "against SFT"}
SCORERS = {"win_rate": "judge", "true_win_rate": "true reward"}


def win_rates(path: Path, policies: list[Row], marks: dict[str, Mark]) -> None:
    """One line per policy and opponent: the rate with its interval by the judge (filled) and the truth (hollow)."""
    height = 1.3 + 0.42 * len(policies)
    with drawing(path, 9.0, height) as figure:
        panels = figure.subplots(1, 2, sharey=True, sharex=True)
        for panel, (opponent, title) in zip(panels, TITLES.items(), strict=True):
            panel.axvline(0.5, color=INK, linewidth=0.9)
            for position, policy in enumerate(policies):
                _rate_line(panel, policy, opponent, position, marks[policy["run"]])
            panel.set_title(f"Win rate {title}")
            panel.grid(axis="y", visible=False)
            percent(panel, "x")
        panels[0].set_yticks(range(len(policies)), [policy["run"] for policy in policies])
        panels[0].set_ylim(len(policies) - 0.5, -0.5)
        if "true_win_rate" in known_scorers(policies):
            plain = Mark(INK, "o")
            legend(figure, [handle("judge", plain), handle("true reward", plain, hollow=True)])


def _rate_line(panel: Axes, policy: Row, opponent: str, position: int, mark: Mark) -> None:
    scorers = [scorer for scorer in SCORERS if f"{scorer}/{opponent}" in policy]
    for number, scorer in enumerate(scorers):
        name = f"{scorer}/{opponent}"
        y = position + (0.28 * (number - 0.5) if len(scorers) > 1 else 0.0)
        panel.errorbar(
            policy[name],
            y,
            xerr=reach(name, policy),
            fmt=mark.marker,
            color=mark.colour,
            markerfacecolor=mark.colour if number == 0 else "white",
            markersize=7 if mark.marker == "*" else 5.5,
            capsize=2.5,
            elinewidth=1.3,
        )


def kl_against_win_rate(path: Path, policies: list[Row], marks: dict[str, Mark], under: str = "") -> None:
    """Forward KL (x) against the win rate over the chosen answers (y), intervals both ways; SFT is at zero.

    Args:
        under: as in `labelled_kl`.
    """
    scorers = known_scorers(policies)
    width = 4.5 * len(scorers) + 0.6
    lines = math.ceil(len(policies) / legend_columns(width, [policy["run"] for policy in policies]))
    with drawing(path, width, 3.7 + LEGEND_LINE * lines) as figure:  # the panels' height is that of any number of runs
        panels = figure.subplots(1, len(scorers), squeeze=False, sharey=True)[0]
        for panel, scorer in zip(panels, scorers, strict=True):
            name = f"{scorer}/chosen"
            for policy in policies:
                mark = marks[policy["run"]]
                panel.errorbar(
                    policy["kl_fwd_rb"],
                    policy[name],
                    xerr=reach("kl_fwd_rb", policy),
                    yerr=reach(name, policy),
                    fmt=mark.marker,
                    color=mark.colour,
                    markersize=9 if mark.marker == "*" else 6.5,
                    capsize=2.5,
                    elinewidth=1.2,
                )
            panel.axhline(0.5, color=INK, linewidth=0.9)
            panel.set_title(f"By the {SCORERS[scorer]}")
            panel.set_xlabel(labelled_kl("KL(reference ‖ policy), nats per answer", under, 50))
            percent(panel, "y")
        panels[0].set_ylabel("win rate against the chosen answers")
        legend(figure, [handle(policy["run"], marks[policy["run"]]) for policy in policies])


def score_against_kl(path: Path, rows: list[Row], marks: dict[str, Mark], under: str) -> None:
    """KL from the reference (x) against the mean P(positive) (y), intervals both ways; hollow where only the largest KL
    is known.

    Args:
        rows: those of control.csv.
        under: as in `labelled_kl`.
    """
    names = [row["policy"] for row in rows]
    lines = math.ceil(len(rows) / legend_columns(5.1, names))
    with drawing(path, 5.1, 3.7 + LEGEND_LINE * lines) as figure:
        panel, handles = figure.subplots(), []
        for row in rows:
            bound = "kl_bound" in row
            mark = Mark(INK, "o") if bound else marks[row["policy"]]
            look: dict[str, Any] = {
                "color": mark.colour,
                "marker": mark.marker,
                "markersize": 9 if mark.marker == "*" else 6.5,
            }
            look |= {"markerfacecolor": "white" if bound else mark.colour, "linestyle": ""}
            panel.errorbar(
                row["kl_bound" if bound else "kl_rev_rb"],
                row["positive_probability"],
                xerr=None if bound else reach("kl_rev_rb", row),
                yerr=reach("positive_probability", row),
                capsize=2.5,
                elinewidth=1.2,
                **look,
            )
            handles.append(Line2D([], [], label=row["policy"], **look))
        panel.set_xlabel(labelled_kl("KL(policy ‖ reference), nats per answer", under, 50))
        panel.set_ylabel("mean P(positive)")
        legend(figure, handles)


def known_scorers(policies: list[Row]) -> list[str]:
    """The scorers by which every policy has a win rate over the chosen answers."""
    return [scorer for scorer in SCORERS if all(f"{scorer}/{CHOSEN}" in policy for policy in policies)]
