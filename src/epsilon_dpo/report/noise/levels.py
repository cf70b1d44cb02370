"""Summaries of pipelines that differ in the noise of their labels alone, as points and as a figure."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row, new_folder, write_csv
from epsilon_dpo.pipeline.stage.runs import CHOSEN, SFT
from epsilon_dpo.report.figures.printed import below, printed
from epsilon_dpo.report.style.plot_style import handle, marks, percent, reach

RATE = f"true_win_rate/{CHOSEN}"  # over answers that are the same at every level; SFT is another policy at each
SPREAD = 0.5  # of the distance between two levels (a quarter of the axis at most) that the policies of one level take


def write_levels(paths: Sequence[Path], out: Path) -> list[Row]:
    """Draw `paths` (summary.json of each level) to `out`/noise.png, with its values beside it in noise.csv.

    Returns:
        the rows of noise.csv, one per level and policy, by rising `flip_rate`.

    Raises:
        UserError: `out` exists, or the files are no summaries of one comparison at different levels.
    """
    with new_folder(out) as folder:
        rows = levels(paths)
        write_csv(folder / "noise.csv", rows)
        draw_levels(folder / "noise.png", rows)
    return rows


def levels(paths: Sequence[Path]) -> list[Row]:
    """Rows {flip_rate, labels_flipped, policy, win_rate, win_rate_low, win_rate_high, n, confidence}.

    `flip_rate`: share of wrong labels that was asked for; `labels_flipped`: that was drawn. The win rate is the true
    one over the chosen answers of the evaluation pairs.

    Raises:
        UserError: as of `write_levels`.
    """
    found = {path: _summary(path) for path in paths}
    first = paths[0]
    for path, summary in found.items():
        for what, of in COMPARED.items():
            if of(summary) != of(found[first]):
                raise UserError(f"{path} and {first} differ in {what}; compare pipelines that differ in noise alone.")
    by_rate: dict[float, Path] = {}
    for path, summary in found.items():
        rate = float(summary["dataset"]["flip_rate"])
        if by_rate.setdefault(rate, path) != path:
            raise UserError(f"{path} and {by_rate[rate]} are of the same level of noise, {rate:g}; leave out one.")
    if len(by_rate) < 2:
        raise UserError("a figure of several levels of noise needs summaries of at least two levels.")
    return [row for _, path in sorted(by_rate.items()) for row in _policies(found[path])]


# Without this the win rates are of other methods, other opponents, or other intervals.
COMPARED = {
    "their runs": lambda summary: {name: run["config"] for name, run in summary["runs"].items()},
    "their evaluation pairs": lambda summary: summary["data_sha256"]["eval.jsonl"],
    "the prompts that were answered": lambda summary: summary["n"],
    "the confidence of their intervals": lambda summary: summary["confidence"],
    "the number of their pairs or their seed": lambda summary: [summary["dataset"].get(k) for k in ("rows", "seed")],
}


def _summary(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; it is a copy of out/report/summary.json of a finished run.") from None
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or not {"runs", "dataset", "data_sha256", "n", "confidence"} <= set(content):
        raise UserError(f"{path} is no summary.json of stage report; copy out/report/summary.json after each run.")
    if not {"flip_rate", "labels_flipped"} <= set(content["dataset"] or {}):
        raise UserError(
            f"{path} is of data whose noise is not known; set fetch.annotators as presets/noise.yaml does (no noise: "
            "one annotator with flip: 0.0)."
        )
    return content


def _policies(summary: dict[str, Any]) -> list[Row]:
    dataset = summary["dataset"]
    return [
        {
            "flip_rate": dataset["flip_rate"],
            "labels_flipped": dataset["labels_flipped"],
            "policy": name,
            **{f"win_rate{end}": policy[f"{RATE}{end}"] for end in ("", "_low", "_high")},
            "n": summary["n"],
            "confidence": summary["confidence"],
        }
        for name, policy in {SFT: summary[SFT], **summary["runs"]}.items()
    ]


def draw_levels(path: Path, rows: Sequence[Row]) -> None:
    """A line per policy over the levels, each rate with its interval; policies stand side by side at a level."""
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    rates = sorted({row["flip_rate"] for row in rows})
    gap = min((rates[-1] - rates[0]) / 4.0, *(high - low for low, high in pairwise(rates)))
    step = SPREAD * gap / len(policies)
    look = marks([policy for policy in policies if policy != SFT])
    with printed(path, 4.6, policies) as figure:
        panel, handles = figure.subplots(), []
        for number, policy in enumerate(policies):
            own, mark = [row for row in rows if row["policy"] == policy], look[policy]
            aside = step * (number - (len(policies) - 1) / 2.0)
            handles.append(handle(policy, mark))
            panel.errorbar(
                [row["flip_rate"] + aside for row in own],
                [row["win_rate"] for row in own],
                yerr=reach("win_rate", *own),
                fmt=mark.marker,
                linestyle="-",
                color=mark.colour,
                markersize=9 if mark.marker == "*" else 7,
                capsize=2.5,
                elinewidth=1.2,
                linewidth=1.2,
                label=policy,
            )
        panel.set_xticks(rates, [f"{round(100 * rate, 4):g}%" for rate in rates])
        panel.set_xlabel("expected share of flipped training labels (actual: noise.csv)")
        panel.set_ylabel("true win rate over the chosen answers")
        panel.grid(axis="x", visible=False)
        percent(panel, "y")
        below(figure, handles)
