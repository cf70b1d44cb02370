"""Figures: a policy keeps its look, points lie where the values say, and nothing covers anything at eighteen runs."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from epsilon_dpo.report.page.charts import kl_against_win_rate, win_rates
from epsilon_dpo.report.page.charts_training import beta_over_time, draw_beta_decisions, moving_average, training_curves
from epsilon_dpo.report.page.results import read_results
from epsilon_dpo.report.page.tables import policies
from epsilon_dpo.report.style.plot_style import marks

pytestmark = pytest.mark.drawings
NAMES = [f"a_name_of_many_{number:02}" for number in range(18)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are written from here on, in place of their files."""
    found: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: found.append(figure))
    return found


def test_marks_differ_and_do_not_depend_on_later_runs() -> None:
    found = marks(NAMES)
    assert len({(mark.colour, mark.marker) for mark in found.values()}) == 19
    assert marks(NAMES[:3]) == {name: found[name] for name in ("sft", *NAMES[:3])}
    every = marks([str(number) for number in range(66)])  # presets/all-methods.yaml has more than thirty runs
    assert len({(mark.colour, mark.marker) for mark in every.values()}) == 67


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
    labels: list[str] = []
    monkeypatch.setattr(Axes, "set_xlabel", lambda self, label: labels.append(label))
    kl_against_win_rate(tmp_path / "shaped.png", [policy], marks(["a"]), "temperature 0.7")
    assert labels == ["KL(reference ‖ policy), nats per answer\nunder temperature 0.7: not the policies' KL"]
    del drawn[1:]
    (x, y, xerr, yerr) = drawn[0]
    assert len(drawn) == 1 and (x, y) == (2.0, 0.6)
    assert np.allclose(xerr, [[0.5], [1.0]]) and np.allclose(yerr, [[0.1], [0.15]])
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_judges_win_rates_are_filled_and_the_truths_hollow(drawn: list[Figure]) -> None:
    """As the legend says; over the chosen answers at the left, over SFT at the right."""
    policy: dict[str, Any] = {"run": "a"}
    rates = {"win_rate/chosen": 0.6, "true_win_rate/chosen": 0.7, "win_rate/sft": 0.8, "true_win_rate/sft": 0.3}
    for name, rate in rates.items():
        policy |= {name: rate, f"{name}_low": rate - 0.1, f"{name}_high": rate + 0.1}
    win_rates(Path("unused"), [policy], marks(["a"]))
    shown = [
        {bars.lines[0].get_xdata()[0]: bars.lines[0].get_markerfacecolor() == "white" for bars in panel.containers}
        for panel in drawn[0].axes
    ]
    assert shown == [{0.6: False, 0.7: True}, {0.8: False, 0.3: True}]
    (legend,) = drawn[0].legends
    hollow = [mark.get_markerfacecolor() == "white" for mark in legend.legend_handles]
    assert list(zip([text.get_text() for text in legend.get_texts()], hollow, strict=True)) == [
        ("judge", False),
        ("true reward", True),
    ]


def test_a_column_has_one_scale_and_each_loss_its_own(outputs: Callable[..., Path], drawn: list[Figure]) -> None:
    """`aa` logs a loss near 3 and `bbbb` near 5, and `bbbb` needs no reference."""
    out = outputs(aa=[1.0], bbbb=[1.0], free=("bbbb",), adapting=())
    runs = read_results(out, {"aa": {"method": "dpo"}, "bbbb": {"method": "simpo"}}).runs
    training_curves(Path("unused"), runs, marks(["aa", "bbbb"]))
    panels = {title: column for column in columns(drawn[0], rows=2) if (title := column[0].get_title(loc="left"))}
    assert [panel.get_ylabel() for panel in panels["pairs in the right order"]] == ["aa", "bbbb"]
    first, second = panels["log π(chosen), nats"]
    assert first.get_ylim() == second.get_ylim() and first.get_ylim()[0] < -20.0  # 5 nats times 4 steps
    first, second = panels["loss, own scales"]
    assert first.get_ylim()[1] < 3.1 and second.get_ylim()[0] > 4.9
    for title in ("log-ratio margin, nats", "KL(ref ‖ policy), nats"):
        first, second = panels[title]
        assert [text.get_text() for text in second.texts] == ["no reference"] and not second.lines
        assert not first.texts and np.nanmax(first.lines[-1].get_ydata()) == pytest.approx(
            (0.1 if "ratio" in title else 0.2) * 3 * 4
        )


def test_a_run_that_learns_from_own_answers_stands_beside_the_others(
    outputs: Callable[..., Path], drawn: list[Figure]
) -> None:
    """Its scores and its KL have columns, which are there for it alone; each panel without a curve says why."""
    out = outputs(aa=[1.0], bbbb=[1.0], cc=[1.0], free=("cc",), adapting=())
    runs = read_results(out, {name: {"method": "dpo"} for name in ("aa", "bbbb", "cc")}).runs
    for row in runs[1].curve:
        step = row["step"]
        row.clear()
        row |= {"step": step, "loss": -1e-17 * step, "reward": 0.5 * step, "kl/rev": 0.1 * step}
    training_curves(Path("unused"), runs, marks(["aa", "bbbb", "cc"]))
    panels = {title: column for column in columns(drawn[0], rows=3) if (title := column[0].get_title(loc="left"))}
    said = {
        title: ["".join(text.get_text() for text in panel.texts) for panel in column]
        for title, column in panels.items()
    }
    assert said == {
        "pairs in the right order": ["", "no pairs", ""],
        "log-ratio margin, nats": ["", "no pairs", "no reference"],
        "log π(chosen), nats": ["", "no pairs", ""],
        "KL(ref ‖ policy), nats": ["", "no pairs", "no reference"],
        "score of own answers": ["trained on pairs", "", "trained on pairs"],
        "KL(policy ‖ ref), nats": ["trained on pairs", "", "trained on pairs"],
        "loss, own scales": ["", "", ""],
    }
    assert panels["score of own answers"][1].lines[-1].get_ydata()[-1] == 2.0
    drawn[0].draw_without_rendering()
    boxes = label_boxes(drawn[0])
    assert not [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]


def columns(figure: Figure, rows: int) -> list[list[Axes]]:
    return [list(column) for column in np.array(figure.axes).reshape(rows, -1).T]


def test_every_adapted_beta_is_shown_whatever_its_method(outputs: Callable[..., Path], drawn: list[Figure]) -> None:
    """A run logs the beta that its method used as <method>/beta; the dashed line is where it started."""
    (run,) = read_results(outputs(plain=[1.0], adapting=()), {"plain": {"method": "new", "beta": 0.4}}).runs
    for row in run.curve:
        row["new/beta"] = 0.3 + row["step"]
    beta_over_time(Path("unused"), [run], marks(["plain"]))
    line, start = drawn[0].axes[0].lines
    assert list(line.get_ydata()) == [1.3, 2.3, 3.3, 4.3] and list(start.get_ydata()) == [0.4, 0.4]


def test_what_became_of_beta_is_stacked_under_its_name(outputs: Callable[..., Path], drawn: list[Figure]) -> None:
    """From the bottom up: half of the pairs lowered, a fifth kept, three tenths raised."""
    (run,) = read_results(outputs(mine=[1.0, 0.0]), {"mine": {"method": "epsilon_dpo"}}).runs
    draw_beta_decisions(Path("unused"), [run])
    (panel,), (legend,) = drawn[0].axes, drawn[0].legends
    stacks = [stack.get_paths()[0].get_extents() for stack in panel.collections]
    assert [end for stack in stacks for end in (stack.y0, stack.y1)] == pytest.approx([0.0, 0.5, 0.5, 0.7, 0.7, 1.0])
    assert [text.get_text() for text in legend.get_texts()] == ["β lowered", "β kept", "β raised"]


@pytest.mark.parametrize("count", [1, 3, 18])
def test_nothing_covers_anything(outputs: Callable[..., Path], drawn: list[Figure], count: int) -> None:
    """No two labels, no label outside, no legend on a panel, and the panels hold most of every figure."""
    names = NAMES[:count]
    out = outputs(adapting=tuple(names), free=tuple(names[1::2]), **{name: [1.0, 0.0] for name in names})
    results = read_results(out, {name: {"method": "new", "beta": 0.1} for name in names})
    look, table, path = marks(names), policies(results), Path("unused")
    win_rates(path, table, look)
    kl_against_win_rate(path, table, look)
    training_curves(path, results.runs, look)
    beta_over_time(path, results.runs, look)
    draw_beta_decisions(path, results.runs)
    assert len(drawn) == 5
    for number, figure in enumerate(drawn):
        figure.draw_without_rendering()
        boxes = label_boxes(figure)
        crossing = [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]
        assert not crossing, (number, crossing)
        for text, box in boxes:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, (number, text)
        panels = [panel for panel in figure.axes if panel.axison]
        legends = [legend.get_window_extent() for legend in figure.legends]
        assert not any(legend.overlaps(panel.get_tightbbox()) for legend in legends for panel in panels), number
        share = sum(panel.bbox.width * panel.bbox.height for panel in panels) / (figure.bbox.width * figure.bbox.height)
        assert share > 0.4, (number, share)


def label_boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """What is written, and where; a little smaller than its box, which has room for accents."""
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    ticks = {id(label) for panel in figure.axes for label in hidden_labels(panel)}
    return [(text.get_text(), text.get_window_extent().padded(-1.0)) for text in shown if id(text) not in ticks]


def hidden_labels(panel: Axes) -> list[Text]:
    """Labels of ticks outside the panel's limits or of a panel without axes, which are not drawn."""
    found: list[Text] = []
    for axis in (panel.xaxis, panel.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.majorTicks, *axis.minorTicks]:
            if not panel.axison or not low <= tick.get_loc() <= high:
                found += [tick.label1, tick.label2]
    return found
