"""The rows of a run: every policy with its own values, the final one also with what its training and margins did."""

from pathlib import Path
from typing import Any

from epsilon_dpo.analysis.intervals.rates import mean
from epsilon_dpo.pipeline.stage.files import write_json, write_jsonl
from epsilon_dpo.study.collect import policies

RUNS = {"mine": {"method": "epsilon_dpo", "beta": 0.1, "epsilon": 0.01, "snapshot_epochs": 0.5}}


def write(folder: Path, metrics: dict[str, Any], records: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", metrics)
    write_jsonl(folder / "records.jsonl", records)


def write_policy(out: Path, place: str, sha: str, kl: float, wins: list[float], true_wins: list[float]) -> None:
    """As stages score and kl do, of four prompts."""
    prompts, by = [f"p{n}" for n in range(4)], {"win_rate/chosen": wins, "true_win_rate/chosen": true_wins}
    rates = {key: x for name, own in by.items() for key, x in mean(own, 0.95).named(name).items()}
    scored = [
        {"prompt_id": prompt, "opponent": "chosen", "win": win, "true_win": true_win}
        for prompt, win, true_win in zip(prompts, wins, true_wins, strict=True)
    ]
    write(out / "score" / "mine" / place, rates | {"policy_sha256": sha}, scored)
    distance = mean([kl] * 4, 0.95).named("kl_fwd_rb")
    distances = [{"prompt_id": prompt, "kl_fwd_rb": kl} for prompt in prompts]
    write(out / "kl" / "mine" / place, distance | {"policy_sha256": sha}, distances)


def test_a_snapshots_row_has_its_own_kl_and_wins(tmp_path: Path) -> None:
    trained = tmp_path / "align" / "metrics" / "mine"
    (trained / "snapshots" / "000002").mkdir(parents=True)
    write_json(trained / "snapshots" / "000002" / "snapshot.json", {"step": 2, "epoch": 0.5})
    write_json(trained / "metrics.json", {"steps": 4, "train_epoch": 1.0})
    curve = [{"step": 1, "eps/lowered": 0.5, "eps/raised": 0.25, "eps/beta_next": 0.05}]
    write_jsonl(trained / "metrics.jsonl", curve)
    write_policy(tmp_path, "snapshots/000002", "a" * 64, 1.5, [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0])
    write_policy(tmp_path, ".", "b" * 64, 4.0, [1.0, 1.0, 0.5, 0.0], [0.5, 0.0, 0.0, 0.0])
    decided = [{"margin": 4.0, "first_order": 3.0, "step": 1}, {"margin": 2.0, "first_order": 1.0, "step": 1}]
    write(tmp_path / "monotonicity" / "mine", {"epsilon": 0.01}, decided)
    (tmp_path / "validate").mkdir()
    write_json(tmp_path / "validate" / "dataset.json", {"true_reward": False})
    early, final = policies(tmp_path, 7, "mine", RUNS)
    names = ("place", "epoch", "kl", "win_rate_judge", "win_rate_true", "prompts", "policy_sha256")
    assert [early[name] for name in names] == ["snapshots/000002", 0.5, 1.5, 0.25, 0.75, 4, "a" * 64]
    assert [final[name] for name in names] == [".", 1.0, 4.0, 0.625, 0.125, 4, "b" * 64]
    for name, value in {"pairs": 2, "decreasing": 2, "lowered_share": 0.5, "raised_share": 0.25}.items():
        assert (early[name], final[name]) == (None, value)
    assert all((row["seed"], row["run"], row["beta"]) == (7, "mine", 0.1) for row in (early, final))
    assert early["recipe"] == final["recipe"] == '{"epsilon": 0.01, "method": "epsilon_dpo"}'
