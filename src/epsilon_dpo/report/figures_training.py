"""The figures of the training: curves per run, beta over time, what became of beta per pair."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from epsilon_dpo.report.figures import policy_handle
from epsilon_dpo.report.results import RunResult
from epsilon_dpo.report.style import COLOURS, REFERENCE, Mark, drawing, legend, percent

CURVES = {
    "loss": "loss",
    "rewards/margins": "reward margin",
    "rewards/accuracies": "pairs with the right order",
    "logps/chosen": "log-prob of the chosen answer, nats",
}
BETA = "eps/beta"
DECISIONS = {
    "eps/p_ratio": ("lowered", COLOURS[5]),
    "eps/none_ratio": ("kept", "#e4e4e4"),
    "eps/n_ratio": ("raised", COLOURS[4]),
}


def training_curves(path: Path, runs: list[RunResult], marks: dict[str, Mark]) -> None:
    """Four panels; a faint line per logged step and a firm one through its moving average."""
    with drawing(path, 9.0, 5.6) as figure:
        panels = figure.subplots(2, 2, sharex=True)
        for panel, (metric, title) in zip(panels.flat, CURVES.items(), strict=True):
            firm = [_curve(panel, run, metric, marks[run.name]) for run in runs]
            _fit(panel, np.concatenate(firm))
            panel.set_title(title)
        percent(panels.flat[list(CURVES).index("rewards/accuracies")], "y")
        for panel in panels[-1]:
            panel.set_xlabel("optimizer step")
        handles = [policy_handle(run.name, marks[run.name], line=True) for run in runs]
        legend(figure, handles)


def _curve(panel: Axes, run: RunResult, metric: str, mark: Mark) -> np.ndarray:
    """Draws both lines; returns the firm one, [rows]."""
    steps, values = series(run, metric)
    firm = moving_average(values)
    panel.plot(steps, values, color=mark.colour, linewidth=0.8, alpha=0.3)
    panel.plot(steps, firm, color=mark.colour, linestyle=mark.line)
    return firm


def _fit(panel: Axes, firm: np.ndarray) -> None:
    """Limits around the firm lines: one outlier, as the tie of the first step, would flatten everything else."""
    if len(firm) and firm.max() > firm.min():
        room = 0.25 * (firm.max() - firm.min())
        panel.set_ylim(firm.min() - room, firm.max() + room)


def series(run: RunResult, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of `metric` where the run logged it, both [rows]."""
    rows = [row for row in run.curve if metric in row]
    return np.array([row["step"] for row in rows]), np.array([row[metric] for row in rows])


def moving_average(values: np.ndarray) -> np.ndarray:
    """Centred mean over a tenth of the rows, [rows]; near the ends over the rows there are."""
    window = max(1, len(values) // 10) | 1
    half = window // 2
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def adapts_beta(run: RunResult) -> bool:
    return any(BETA in row for row in run.curve)


def beta_over_time(path: Path, runs: list[RunResult], marks: dict[str, Mark]) -> None:
    """beta per step of the runs that adapt it; the others' constant beta, if they have one, beside it."""
    with drawing(path, 9.0, 3.2) as figure:
        panel = figure.subplots()
        handles = []
        for run in runs:
            mark = marks[run.name]
            if adapts_beta(run):
                panel.plot(*series(run, BETA), color=mark.colour, linestyle=mark.line)
                handles.append(policy_handle(run.name, mark, line=True))
            elif "beta" in run.numbers and run.curve:
                ends = [run.curve[0]["step"], run.curve[-1]["step"]]
                panel.plot(ends, [run.numbers["beta"]] * 2, color=mark.colour, linestyle=mark.line, alpha=0.75)
                handles.append(policy_handle(f"{run.name} (constant)", mark, line=True))
        panel.set_xlabel("optimizer step")
        panel.set_ylabel("β")
        legend(figure, handles)


def beta_decisions(path: Path, runs: list[RunResult]) -> None:
    """Per run that decides beta pair by pair: the shares of its pairs over time, one panel each."""
    with drawing(path, 9.0, 0.7 + 2.3 * len(runs)) as figure:
        panels = figure.subplots(len(runs), 1, squeeze=False, sharex=True)[:, 0]
        for panel, run in zip(panels, runs, strict=True):
            steps = series(run, "eps/p_ratio")[0]
            shares = [moving_average(series(run, metric)[1]) for metric in DECISIONS]
            stacks = panel.stackplot(steps, shares, colors=[colour for _, colour in DECISIONS.values()])
            for stack, (label, _) in zip(stacks, DECISIONS.values(), strict=True):
                stack.set_label(f"β {label}")
            panel.axhline(0.5, color=REFERENCE, linewidth=0.6)
            panel.set_title(run.name)
            panel.set_ylim(0.0, 1.0)
            panel.margins(x=0.0)
            percent(panel, "y")
        panels[-1].set_xlabel("optimizer step")
        figure.legend(handles=stacks, loc="outside lower center", ncols=3)
