"""Outputs of a small comparison, by hand: two betas of DPO, and ε-DPO with a snapshot."""

from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.analysis.intervals.rates import mean
from epsilon_dpo.pipeline.stage.files import write_json, write_jsonl
from epsilon_dpo.report.figures.params import FiguresView

RUNS: dict[str, dict[str, Any]] = {
    "dpo_01": {"method": "dpo", "beta": 0.1},
    "dpo_05": {"method": "dpo", "beta": 0.5},
    "mine": {"method": "epsilon_dpo", "beta": 0.1, "epsilon": 0.01, "snapshot_epochs": 0.5},
}
KL = {"dpo_01": 3.0, "dpo_05": 1.0, "mine": 4.0, "mine/snapshots/000002": 2.0}
WINS = {
    "dpo_01": [1.0, 1.0, 1.0, 0.0],
    "dpo_05": [1.0, 0.5, 0.0, 0.0],
    "mine": [1.0, 1.0, 0.5, 0.0],
    "mine/snapshots/000002": [1.0, 0.0, 0.0, 0.0],
}
SHA = "0" * 64
# margin h, first order, step of each evaluation pair, the same for every run
PAIRS = [(5.0, 4.0, 1), (1.0, 0.5, 1), (2.0, -1.0, -1), (-3.0, -4.0, -1), (0.5, 0.5, -1), (0.0, 0.0, 0)]
# Of the last evaluation: the mean h is 2, the chosen answers' mean log-ratio -4. The ε-DPO run has lowered its beta.
RATIOS = {"eval_margins_raw": 2.0, "eval_kl/fwd_proxy": 4.0}
TRAINED: dict[str, dict[str, float]] = {
    run: RATIOS | {"eval_rewards/margins": beta * 2.0, "eval_rewards/chosen": -beta * 4.0}
    for run, beta in (("dpo_01", 0.1), ("dpo_05", 0.5), ("mine", 0.08))
}
TRAINED["mine"]["beta"] = 0.08
GROUPS = {1: "decreasing", -1: "increasing", 0: "neither"}


@pytest.fixture
def view() -> FiguresView:
    figures = {"pairs_of": "dpo_05", "smoothing": 0.5}
    return FiguresView.model_validate({"seed": 17, "confidence": 0.95, "runs": RUNS, "figures": figures})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """As the stages before `figures` leave it; prompts are met in another order by score than by kl."""
    out = tmp_path / "out"
    for place, kl in KL.items():
        _policy(out, place, kl, WINS[place])
    for run in RUNS:
        records = [
            {"id": f"eval/{i}", "margin": h, "first_order": first, "step": step, "group": GROUPS[step]}
            for i, (h, first, step) in enumerate(PAIRS)
        ]
        _write(out / "monotonicity" / run, records, {"epsilon": 0.01})
        (out / "align" / "metrics" / run).mkdir(parents=True, exist_ok=True)
        write_json(out / "align" / "metrics" / run / "metrics.json", {"steps": 4, "train_epoch": 1.0} | TRAINED[run])
        curve = [{"step": step, "loss": 0.5} for step in (1, 2)]
        if run == "mine":
            curve = [row | {"eps/lowered": p, "eps/raised": 1 - p} for row, p in zip(curve, (1.0, 0.0), strict=True)]
        write_jsonl(out / "align" / "metrics" / run / "metrics.jsonl", curve)
    snapshot = out / "align" / "metrics" / "mine" / "snapshots" / "000002"
    snapshot.mkdir(parents=True)
    write_json(snapshot / "snapshot.json", {"step": 2, "epoch": 0.5})
    for stage in ("judge", "teacher", "controls", "validate"):
        (out / stage).mkdir()
    for folder in ("judge", "teacher"):
        write_json(out / folder / "judge.json", {"kind": "pairrm", "origin": "trained on 40 pairs"})
    write_json(out / "controls" / "metrics.json", {"win_rate/sft_vs_chosen": 0.25})
    write_jsonl(out / "controls" / "records.jsonl", [{"answer": "sft", "opponent": "chosen", "prompt_id": "p0"}])
    pairs = [
        {
            "id": f"eval/{i}",
            "prompt": [{"role": "user", "content": f"question {i}"}],
            "chosen": [{"role": "assistant", "content": f"good {i}"}],
            "rejected": [{"role": "assistant", "content": f"bad {i}"}],
        }
        for i in range(len(PAIRS))
    ]
    write_jsonl(out / "validate" / "eval.jsonl", pairs)
    return out


def _policy(out: Path, place: str, kl: float, wins: list[float]) -> None:
    prompts = [f"p{i}" for i in range(len(wins))]
    scored = [
        {"prompt_id": prompt, "opponent": "chosen", "win": win} for prompt, win in zip(prompts, wins, strict=True)
    ]
    scored += [{"prompt_id": prompt, "opponent": "sft", "win": 0.0} for prompt in prompts]
    distances = [{"prompt_id": prompt, "kl_fwd_rb": kl + i / 10} for i, prompt in enumerate(prompts)]
    other = [{"prompt_id": prompt, "kl_rev_rb": 9.0} for prompt in prompts]
    rate = mean(wins, 0.95).named("win_rate/chosen")
    distance = mean([row["kl_fwd_rb"] for row in distances], 0.95).named("kl_fwd_rb")
    _write(out / "score" / place, scored[::-1], rate | {"policy_sha256": SHA})
    _write(out / "kl" / place, distances + other, distance | {"policy_sha256": SHA})


def _write(folder: Path, records: list[Any], metrics: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "records.jsonl", records)
    write_json(folder / "metrics.json", metrics)
