"""The paper's Figure 3: KL and win rate within an epoch, and how often beta was lowered and raised, step by step."""

from pathlib import Path

from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl
from epsilon_dpo.pipeline.stage.runs import FACTS, metrics_folder, policy_paths
from epsilon_dpo.report.figures.points import KL, Row, read_point

TRAJECTORY = ("run", "step", "epoch", "metric", "value", "low", "high", "n")
DECIDED = ("run", "step", "metric", "value", "smoothed")
RATIOS = ("eps/lowered", "eps/raised")  # pairs of a step whose beta was lowered, raised


def trajectory(out: Path, run: str) -> list[Row]:
    """KL and win rates of the snapshots of `run` and of its final policy; empty if it kept no snapshot.

    Returns:
        rows of TRAJECTORY, one per policy and metric; `step` counts optimizer steps done, `n` prompts.
    """
    places = policy_paths(metrics_folder(out, run))
    if places == ["."]:
        return []
    rows = []
    for place in places:
        folder = metrics_folder(out, run) / place
        if place == ".":
            final = read_json(folder / "metrics.json")
            facts = {"step": final["steps"], "epoch": final["train_epoch"]}
        else:
            facts = read_json(folder / FACTS)
        point = read_point(out, run, place)
        found = {KL: point.kl} | {f"win rate by the {scorer}": rate for scorer, rate in point.win_rate.items()}
        rows += [
            {"run": run, "step": int(facts["step"]), "epoch": facts["epoch"], "metric": metric}
            | {"value": x.value, "low": x.low, "high": x.high, "n": len(point.kl_by_prompt)}
            for metric, x in found.items()
        ]
    return rows


def ratios(out: Path, run: str, smoothing: float) -> list[Row]:
    """The shares of a step's pairs whose beta was lowered and raised; empty if the method decides nothing per pair.

    Returns:
        rows of DECIDED, one per optimizer step and ratio; `smoothed` is a moving average with weight `smoothing` on the
        past, divided by 1 - smoothing^t so that it does not start at zero.
    """
    curve = [row for row in read_jsonl(metrics_folder(out, run) / "metrics.jsonl") if RATIOS[0] in row]
    rows = []
    for metric in RATIOS:
        average = 0.0
        for t, row in enumerate(curve, start=1):
            average = smoothing * average + (1.0 - smoothing) * row[metric]
            smoothed = average / (1.0 - smoothing**t)
            rows.append({"run": run, "step": row["step"], "metric": metric, "value": row[metric], "smoothed": smoothed})
    return rows
