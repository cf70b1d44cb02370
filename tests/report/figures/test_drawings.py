"""The drawings, measured: nothing falls out of its axes, no label lies on another, letters can be read in print."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from epsilon_dpo.analysis.intervals.rates import mean
from epsilon_dpo.analysis.intervals.win_rates import win_rate
from epsilon_dpo.pipeline.stage.files import read_json, write_json
from epsilon_dpo.report.figures.draw_pareto import draw_pareto
from epsilon_dpo.report.figures.params import FiguresView
from epsilon_dpo.report.figures.pareto import Pareto, pareto
from epsilon_dpo.report.figures.points import Point
from epsilon_dpo.report.figures.root_axis import root_ticks
from epsilon_dpo.report.figures.write import write_figures
from epsilon_dpo.report.style.plot_style import percent

PRINTED_WIDTH = 16 / 2.54  # inches
SMALLEST = 7.0  # points
NAMES = ("dpo", "epsilon_dpo, epsilon 0.01", "tr_dpo, update soft, alpha 0.6", "simpo, gamma_beta_ratio 0.5", "kto")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Every figure that is written while the test runs, by the name of its file."""
    figures = {}
    write = Figure.savefig

    def savefig(figure: Figure, path: Path, **options: object) -> None:
        write(figure, path, **options)
        figures[path.name] = figure

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def letters(figure: Figure) -> list[Text]:
    """What a reader sees: titles, labels of axes, ticks within the limits, the legend."""
    found: list[Text] = [text for legend in figure.legends for text in legend.get_texts()]
    found += [text for part in figure.subfigs for text in part.findobj(Text) if text is getattr(part, "_supxlabel", 0)]
    for panel in figure.axes:
        found += [panel.xaxis.label, panel.yaxis.label, panel.title, panel._left_title]
        for axis in (panel.xaxis, panel.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            found += [tick.label1 for tick in ticks if tick.label1.get_visible()]
    return [text for text in found if text.get_text()]


def assert_readable(figure: Figure) -> None:
    assert isinstance(figure.canvas, FigureCanvasAgg)
    figure.draw_without_rendering()  # it was laid out for the resolution of the file
    boxes = [(text, text.get_window_extent(figure.canvas.get_renderer())) for text in letters(figure)]
    assert len(boxes) > 10
    for text, box in boxes:
        assert text.get_size() * PRINTED_WIDTH / figure.get_figwidth() >= SMALLEST, text
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    for (one, a), (other, b) in combinations(boxes, 2):
        assert not a.overlaps(b), (one, other)


def test_the_figures_of_a_small_comparison_can_be_read(
    out: Path, view: FiguresView, tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    (tmp_path / "figures").mkdir()
    write_figures(out, view, tmp_path / "figures")
    assert list(drawn) == ["pareto.png", "dynamics.png", "margins.png"]
    for figure in drawn.values():
        assert_readable(figure)
    implicit, raw, agreement = drawn["margins.png"].axes
    found = [[bars.lines[0].get_xdata()[0] for bars in panel.containers] for panel in (implicit, raw)]
    assert found[1] == pytest.approx([3.0, -1 / 6] * 3)  # of the decreasing and the increasing pairs under each run
    assert found[0] == pytest.approx([0.1 * 3.0, -0.1 / 6, 0.5 * 3.0, -0.5 / 6, 0.08 * 3.0, -0.08 / 6])
    against = drawn["dynamics.png"].axes[2]  # win rate (y) against KL (x): of the snapshot, then of the final policy
    assert against.lines[0].get_xydata() == pytest.approx(np.array([[2.15, 0.25], [4.15, 0.625]]))
    assert agreement.get_xlim()[1] == 1.0
    shown = {(round(line.get_xdata()[0], 3), line.get_markerfacecolor() == "white") for line in agreement.lines}
    # Hollow, the sign of h alone: right for the decreasing pairs and for a third of the increasing ones. The sign to
    # first order, filled, is right for two thirds of these.
    assert shown == {(1.0, True), (1.0, False), (0.333, True), (0.667, False)}


def test_without_a_margin_of_rewards_there_is_no_panel_for_it(
    out: Path, view: FiguresView, tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    """By the length divided, say: beta h would be a number that no method speaks of."""
    for run in view.runs:
        file = out / "align/metrics" / run / "metrics.json"
        write_json(file, read_json(file) | {"eval_rewards/margins": 0.07})
    (tmp_path / "figures").mkdir()
    caption = write_figures(out, view, tmp_path / "figures")[-1]["caption"]
    assert_readable(drawn["margins.png"])
    titles = [panel.get_title("left") for panel in drawn["margins.png"].axes]
    assert len(titles) == 2 and titles[0] == "Log-ratio margin h, nats"
    assert "not drawn: those of dpo_01, dpo_05, mine." in caption
    assert {row["implicit_margin"] for row in read_json(tmp_path / "figures/pairs.json")} == {None}


def test_an_image_says_itself_that_its_kl_is_none(
    out: Path, view: FiguresView, tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    """Whoever opens the file, or sees it in `dvc plots`, reads no caption."""
    metrics, under = read_json(out / "kl/dpo_01/metrics.json"), "temperature 0.7, top_p 0.95, top_k 50"
    write_json(out / "kl/dpo_01/metrics.json", metrics | {"sampled_under": under})
    (tmp_path / "figures").mkdir()
    write_figures(out, view, tmp_path / "figures")
    said = f"under {under}: not the policies' KL"
    for name, times in (("pareto.png", 1), ("dynamics.png", 2), ("margins.png", 0)):
        assert_readable(drawn[name])
        labels = [" ".join(text.get_text().split()) for text in letters(drawn[name])]
        assert sum(label.endswith(said) for label in labels) == times, name


def sweeps(families: tuple[str, ...], scorers: tuple[str, ...], betas: int, fall: float = 0.2) -> Pareto:
    """Policies of great and small KL; the wins of the farthest are few, unless there is no `fall`."""
    rng = np.random.default_rng(0)
    points, family_of, beta_of = [], {}, {}
    for family in families:
        for number in range(betas):
            kls = rng.gamma(4.0, 0.1 * 3.0**number, 40)
            wins = {scorer: (rng.random(40) < 0.8 - fall * number).astype(float) for scorer in scorers}
            rates = {scorer: win_rate(own, range(40), 0.95) for scorer, own in wins.items()}
            kl, answers = mean(kls.tolist(), 0.95), np.ones(40, int)
            points.append(Point(f"{family}/{number}", kl, kls, rates, wins, answers))
            family_of[points[-1].run], beta_of[points[-1].run] = family, 0.1 / 3.0**number
    return pareto(points, family_of, beta_of, dict.fromkeys(scorers, 0.5), 0.95, seed=0)


@pytest.mark.parametrize("families", [1, 5, 8])
@pytest.mark.parametrize("scorers", [("judge",), ("judge", "true reward")])
@pytest.mark.parametrize("betas", [1, 4])
def test_a_panel_for_every_family_that_leaves_no_point_out(
    families: int, scorers: tuple[str, ...], betas: int, tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    names = (NAMES + tuple(f"{name} too" for name in NAMES))[:families]
    found = sweeps(names, scorers, betas)
    draw_pareto(tmp_path / "pareto.png", found, dict.fromkeys(scorers, 0.5))
    figure = drawn["pareto.png"]
    assert_readable(figure)
    panels = [panel for panel in figure.axes if panel.get_xscale() == "function"]
    assert len(panels) == len(scorers) * (families if betas > 1 else 1)
    shown = set()
    for panel in panels:
        (left, right), (low, high) = panel.get_xlim(), panel.get_ylim()
        for bars in panel.containers:
            (x,), (y,) = bars.lines[0].get_data()
            assert left < x < right and low < y < high
            shown.add((x, y, bars.lines[0].get_markerfacecolor() == "white"))
            for interval in bars.lines[2]:
                ends = interval.get_segments()[0]
                assert (ends[:, 0] <= right).all() and (low <= ends[:, 1]).all() and (ends[:, 1] <= high).all()
    assert shown == {(row["kl"], row["win_rate"], row["dominated"]) for row in found.points}


def test_the_band_is_within_the_axes(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """It holds at all KLs together, so it reaches farther than the bars of single policies."""
    found = sweeps(NAMES[:2], ("judge",), 8, fall=0.0)
    draw_pareto(tmp_path / "pareto.png", found, {"judge": 0.7})
    for panel, band in zip(drawn["pareto.png"].axes, found.frontiers["judge"].values(), strict=False):
        assert panel.get_ylim()[0] < band.low.min() and band.high.max() < panel.get_ylim()[1]
    assert band.high.max() > max(row["win_rate_high"] for row in found.points)


def test_ticks_say_where_they_stand() -> None:
    """Limits like these gave ticks at 62.5 % and 67.5 % that said 63% and 68%."""
    panel = Figure().subplots()
    panel.set_ylim(0.615, 0.8)
    percent(panel, "y")
    said = [float(label.removesuffix("%")) for label in panel.yaxis.get_major_formatter().format_ticks([0.625, 0.7])]
    assert said == [62.5, 70.0]
    assert not any(round(1000 * tick) % 10 for tick in panel.get_yticks())


@pytest.mark.parametrize(
    ("largest", "ticks"), [(27.0, [0, 1, 4, 9, 16, 25]), (3.0, [0, 0.25, 1, 2.25]), (600.0, [0, 100, 400])]
)
def test_ticks_of_the_kl_are_squares(largest: float, ticks: list[float]) -> None:
    assert root_ticks(largest, room=17.0) == ticks
