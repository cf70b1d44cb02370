"""Figures: a policy keeps its look, the moving average is one, and the points lie where the numbers say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from epsilon_dpo.report.figures import kl_against_win_rate
from epsilon_dpo.report.figures_training import moving_average
from epsilon_dpo.report.style import marks


def test_marks_differ_and_do_not_depend_on_later_runs() -> None:
    names = [f"run{number}" for number in range(12)]
    found = marks(names)
    assert len({(mark.colour, mark.marker) for mark in found.values()}) == 13
    assert len({(mark.colour, mark.line) for mark in found.values()}) == 13
    assert marks(names[:3]) == {name: found[name] for name in ("sft", *names[:3])}


def test_moving_average_uses_the_rows_there_are() -> None:
    """20 rows: a window of 3; at the ends 2 of them exist."""
    values = np.arange(20.0) ** 2
    found = moving_average(values)
    assert found[0] == (0 + 1) / 2 and found[5] == (16 + 25 + 36) / 3 and found[-1] == (18**2 + 19**2) / 2
    assert moving_average(np.array([3.0, 5.0])).tolist() == [3.0, 5.0]


def test_kl_lies_on_x_and_win_rate_on_y(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Any, ...]] = []
    original = Axes.errorbar

    def errorbar(self: Axes, x: float, y: float, **rest: Any) -> Any:
        drawn.append((x, y, rest["xerr"], rest["yerr"]))
        return original(self, x, y, **rest)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    policy = {"run": "a", "kl_fwd_rb": 2.0, "kl_fwd_rb_low": 1.5, "kl_fwd_rb_high": 3.0}
    policy |= {"win_rate/chosen": 0.6, "win_rate/chosen_low": 0.5, "win_rate/chosen_high": 0.75}
    kl_against_win_rate(tmp_path / "figure.png", [policy], marks(["a"]))
    (x, y, xerr, yerr) = drawn[0]
    assert len(drawn) == 1 and (x, y) == (2.0, 0.6)
    assert np.allclose(xerr, [[0.5], [1.0]]) and np.allclose(yerr, [[0.1], [0.15]])
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
