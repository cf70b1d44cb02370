"""What is said of the paper's figures to those who cannot see them; the small comparison of conftest.py, by hand."""

from pathlib import Path

from epsilon_dpo.pipeline.stage.files import read_json, write_json
from epsilon_dpo.report.figures.alt_texts import margins_alt, over_optimisation_alt
from epsilon_dpo.report.figures.params import FiguresView
from epsilon_dpo.report.figures.write import write_figures
from epsilon_dpo.report.style.alt_text import LIMIT


def alts(out: Path, view: FiguresView, to: Path) -> dict[str, str]:
    to.mkdir()
    write_figures(out, view, to)
    return {figure["name"]: figure["alt"] for figure in read_json(to / "figures.json")}


def test_the_small_comparison_is_told(out: Path, view: FiguresView, tmp_path: Path) -> None:
    """KL: the mean of kl, kl + 0.1, 0.2 and 0.3; margins: 3 of the decreasing pairs, -1/6 of the increasing ones."""
    found = alts(out, view, tmp_path / "figures")
    assert found["pareto"].startswith(
        "By the judge: SFT 25.0 % at 0 nats, dpo_01 75.0 % at 3.15 nats, dpo_05 37.5 % at 1.15 nats, "
        "mine 62.5 % at 4.15 nats; none of 3 dominated, hypervolume "
    )
    assert found["dynamics"] == (
        "From the first policy kept to the last: KL mine 2.15 nats to 4.15 nats; "
        "win rate by the judge mine 25.0 % to 62.5 %; "
        "β lowered for 33.3 % (mine) of the pairs, in the moving average at its end; "
        "β raised for 66.7 % (mine) of the pairs, in the moving average at its end."
    )
    each = "{} 3.00 decreasing and −0.17 increasing"
    assert found["margins"] == (
        "Mean log-ratio margin of the pairs by what ε-DPO would decide, nats: "
        + "; ".join(each.format(run) for run in view.runs)
        + "; smaller where increasing in all 3; the first-order sign is the decision for at least 66.7 %."
    )
    metrics = read_json(out / "kl/dpo_01/metrics.json") | {"sampled_under": "top_p 0.95"}
    write_json(out / "kl/dpo_01/metrics.json", metrics)
    shaped = alts(out, view, tmp_path / "shaped")
    said = " Under top_p 0.95: not the policies' KL."
    assert shaped == {name: alt + (said if name != "margins" else "") for name, alt in found.items()}


def test_many_runs_are_told_by_the_ends() -> None:
    rows = []
    for n in range(30):
        for group, margin in (("decreasing", 1.0 + n), ("increasing", -1.0)):
            rows.append({"run": f"run_{n}", "group": group, "margin": margin, "first_order_agreement": 0.9 + n / 1000})
    assert margins_alt(rows) == (
        "Mean log-ratio margin of the pairs by what ε-DPO would decide, nats: decreasing 1.00 (run_0) to 30.00 "
        "(run_29); increasing −1.00 (all 30); smaller where increasing in all 30; "
        "the first-order sign is the decision for at least 90.0 %."
    )
    assert margins_alt([])  # too few pairs of either kind


def test_what_the_judge_promises_is_told_beside_the_truth_at_the_largest_kl() -> None:
    rows = []
    for family, scale in (("dpo", 1.0), ("ppo", 2.0)):
        for scorer, reward in (("judge", 1.5), ("true reward", 1.25)):
            for kl in (9.0, 4.0):
                row = {"family": family, "run": family, "scorer": scorer, "kl": kl * scale, "reward": reward * kl / 9.0}
                rows.append(row)
    title = "Reward above the reference's at the largest KL, by the judge and by the true reward: "
    assert over_optimisation_alt(rows, False) == (
        title + "dpo at 9.00 nats 1.50 and 1.25, ppo at 18.00 nats 1.50 and 1.25; the judge's is the higher in all 2."
    )
    many = [row | {"family": f"{row['family']}, alpha {n}"} for n in range(9) for row in rows]
    said = over_optimisation_alt(many, False)
    assert (
        said == (title + "1.50 nats (all 18); 1.25 nats (all 18); the judge's is the higher in all 18 families.")
        and len(said) <= LIMIT
    )
