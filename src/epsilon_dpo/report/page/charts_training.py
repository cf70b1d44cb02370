"""The figures of the training: curves per run, beta over time, what became of beta per pair.

Small multiples: a panel holds one run, so that eighteen runs are read like three. Which panels there are follows from
what the runs logged; no method is named.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from epsilon_dpo.report.page.results import RunResult
from epsilon_dpo.report.style.plot_style import COLOURS, REFERENCE, Mark, drawing, percent

LOSS = "loss"  # of different methods, or of one with another config, it has different units
ACCURACY = "rewards/accuracies"
CURVES = {
    ACCURACY: "pairs in the right order",
    "margins_raw": "log-ratio margin, nats",
    "logps/chosen": "log π(chosen), nats",
    "kl/fwd_data": "KL(ref ‖ policy), nats",
    "reward": "score of own answers",
    "kl/rev": "KL(policy ‖ ref), nats",
    LOSS: "loss, own scales",
}
OF_OWN_ANSWERS = ("reward", "kl/rev")  # logged by the methods that learn from these
BETA = "/beta"  # a method that adapts its beta logs the one it used as <method>/beta
DECISIONS = {
    "eps/lowered": ("lowered", COLOURS[5]),
    "eps/kept": ("kept", "#e4e4e4"),
    "eps/raised": ("raised", COLOURS[4]),
}
OTHERS = "#d0d0d0"
FEW = 6  # runs that leave room for higher panels
COLUMNS = 3  # of panels that hold a run each


def training_curves(path: Path, runs: list[RunResult], marks: dict[str, Mark]) -> None:
    """A row per run and a column per metric: the run in colour, before all others in grey.

    A column has one scale for all runs, so that heights can be compared; only the losses have each their own.
    """
    metrics = [metric for metric in CURVES if any(logs(run, metric) for run in runs)]
    row = 1.1 if len(runs) <= FEW else 0.78  # inches
    with drawing(path, max(10.2, 2.1 * len(metrics)), 0.75 + row * len(runs)) as figure:
        panels = figure.subplots(len(runs), len(metrics), squeeze=False)
        for column, metric in zip(panels.T, metrics, strict=True):
            _column(list(column), runs, metric, marks)
            column[0].set_title(CURVES[metric], fontsize=8.5)
            column[-1].set_xlabel("optimizer step", fontsize=8)
        for panel, run in zip(panels[:, 0], runs, strict=True):
            panel.set_ylabel(run.name, rotation=0, ha="right", va="center", fontweight="bold", labelpad=6)
        figure.align_ylabels(panels[:, 0])


def _column(panels: list[Axes], runs: list[RunResult], metric: str, marks: dict[str, Mark]) -> None:
    """`metric` of each run in its panel; a run that has none says why."""
    lines = {run.name: firm(run, metric) for run in runs if logs(run, metric)}
    # All runs as one line with gaps: a line for each other run in each panel takes many times as long to draw.
    everyone = [
        np.concatenate([np.append(part, np.nan) for part in parts]) for parts in zip(*lines.values(), strict=True)
    ]
    for number, (panel, run) in enumerate(zip(panels, runs, strict=True)):
        _fit(panel.set_xlim, everyone[0], 0.03)
        panel.tick_params(labelsize=7, labelbottom=number == len(panels) - 1)
        panel.yaxis.set_major_locator(MaxNLocator(3))
        if metric == ACCURACY:
            percent(panel, "y")
        if run.name not in lines:
            panel.text(
                0.5, 0.5, _why_not(run, metric), transform=panel.transAxes, ha="center", va="center", color=REFERENCE
            )
            panel.set_yticks([])
            panel.grid(visible=False)
            panel.spines["left"].set_visible(False)
            continue
        if metric != LOSS:
            panel.plot(*everyone, color=OTHERS, linewidth=0.7)
        panel.plot(*series(run, metric), color=marks[run.name].colour, linewidth=0.7, alpha=0.35)
        panel.plot(*lines[run.name], color=marks[run.name].colour)
        # Around the firm lines: one outlier, as the tie of the first step, would flatten everything else.
        _fit(panel.set_ylim, lines[run.name][1] if metric == LOSS else everyone[1], 0.12)


def _why_not(run: RunResult, metric: str) -> str:
    """Why a run has logged no `metric` although others have."""
    if metric in OF_OWN_ANSWERS:
        return "trained on pairs"
    return "no reference" if logs(run, ACCURACY) else "no pairs"


def firm(run: RunResult, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and moving average of `metric`, both [rows]."""
    steps, values = series(run, metric)
    return steps, moving_average(values)


def _fit(set_limits: Callable[[float, float], Any], values: np.ndarray, room: float) -> None:
    """Limits of an axis around `values`, with a share of their span on either side; NaN are gaps."""
    low, high = np.nanmin(values), np.nanmax(values)
    if high > low:
        set_limits(low - room * (high - low), high + room * (high - low))


def logs(run: RunResult, metric: str) -> bool:
    return any(metric in row for row in run.curve)


def series(run: RunResult, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of `metric` where the run logged it, both [rows]."""
    rows = [row for row in run.curve if metric in row]
    return np.array([row["step"] for row in rows]), np.array([row[metric] for row in rows])


def moving_average(values: np.ndarray) -> np.ndarray:
    """Centred mean over a tenth of the rows, [rows]; near the ends over the rows there are."""
    half = len(values) // 20
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def adapted_beta(run: RunResult) -> str | None:
    """The metric under which the run logged a beta that its method adapts."""
    return next((name for row in run.curve for name in row if name.endswith(BETA)), None)


def decides(run: RunResult) -> bool:
    """Whether the run's method chose a beta for each pair."""
    return all(logs(run, metric) for metric in DECISIONS)


def beta_over_time(path: Path, runs: list[RunResult], marks: dict[str, Mark]) -> None:
    """A panel per run that adapts beta, each on its own scale, with its starting beta as a dashed line."""
    with drawing(path, 9.0, 2.4 * _rows(len(runs))) as figure:
        for panel, run in zip(_grid(figure, len(runs), sharey=False), runs, strict=True):
            metric = adapted_beta(run)
            assert metric is not None
            panel.plot(*series(run, metric), color=marks[run.name].colour)
            if "beta" in run.config:
                panel.axhline(run.config["beta"], color=REFERENCE, linewidth=0.9, linestyle="--")
            panel.set_title(run.name)
            panel.set_xlabel("optimizer step")
        figure.supylabel("β", rotation=0, fontsize=10)


def draw_beta_decisions(path: Path, runs: list[RunResult]) -> None:
    """Per run that decides beta pair by pair: the shares of its pairs over time, one panel each."""
    with drawing(path, 9.0, 0.4 + 2.4 * _rows(len(runs))) as figure:
        for panel, run in zip(_grid(figure, len(runs), sharey=True), runs, strict=True):
            steps = series(run, "eps/lowered")[0]
            shares = [moving_average(series(run, metric)[1]) for metric in DECISIONS]
            stacks = panel.stackplot(steps, shares, colors=[colour for _, colour in DECISIONS.values()])
            for stack, (label, _) in zip(stacks, DECISIONS.values(), strict=True):
                stack.set_label(f"β {label}")
            panel.axhline(0.5, color=REFERENCE, linewidth=0.6)
            panel.set_title(run.name)
            panel.set_ylim(0.0, 1.0)
            panel.margins(x=0.0)
            percent(panel, "y")
            panel.set_xlabel("optimizer step")
        figure.legend(handles=stacks, loc="outside lower center", ncols=3)


def _rows(count: int) -> int:
    return -(-count // COLUMNS)


def _grid(figure: Figure, count: int, sharey: bool) -> list[Axes]:
    """`count` panels in rows of up to three; what is left of the last row stays empty."""
    panels = figure.subplots(_rows(count), min(count, COLUMNS), squeeze=False, sharey=sharey).flat
    for panel in panels[count:]:
        panel.set_axis_off()
    return list(panels[:count])
