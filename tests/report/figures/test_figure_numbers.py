"""What the figures show, by hand."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_json
from epsilon_dpo.report.figures import captions
from epsilon_dpo.report.figures.captions import pareto_caption
from epsilon_dpo.report.figures.dynamics import ratios, trajectory
from epsilon_dpo.report.figures.families import families
from epsilon_dpo.report.figures.margins import margins, quoted
from epsilon_dpo.report.figures.params import FiguresView
from epsilon_dpo.report.figures.pareto import pareto
from epsilon_dpo.report.figures.points import read_point

RUNS = ("dpo_01", "dpo_05", "mine")


def test_runs_that_differ_by_beta_alone_are_a_family() -> None:
    soft = {"method": "tr_dpo", "update": "soft", "alpha": 0.6, "sync_steps": 8}
    hard = {"method": "tr_dpo", "update": "hard", "sync_steps": 8}
    runs = {
        "a": {"method": "dpo", "beta": 0.1},
        "b": {"method": "dpo", "beta": 0.5, "seed": 3, "snapshot_epochs": 0.2},
        "c": soft | {"beta": 0.1},
        "d": hard | {"beta": 0.1},
        "e": hard | {"beta": 0.5},
    }
    soft_label, hard_label = "tr_dpo, update soft, alpha 0.6", "tr_dpo, update hard"
    assert families(runs) == {"a": "dpo", "b": "dpo", "c": soft_label, "d": hard_label, "e": hard_label}
    null = families({"a": {"method": "m", "beta": 1.0}, "b": {"method": "m", "beta": 2.0, "learning_rate": None},
                     "c": {"method": "m", "learning_rate": 1e-4}})  # fmt: skip
    assert null["a"] == null["b"] == "m"
    ones = families(runs | {"f": soft | {"alpha": 1}, "g": soft | {"alpha": 1.0, "beta": 0.5}})
    assert ones["f"] == ones["g"] == "tr_dpo, update soft, alpha 1"
    gates = families({str(gate): {"method": "pairwise_cringe", "gate_gradient": gate} for gate in (True, False)})
    assert list(gates.values()) == [f"pairwise_cringe, gate_gradient {gate}" for gate in ("true", "false")]


def test_wins_and_kl_are_of_the_same_prompts(out: Path) -> None:
    """The records of one come in another order than those of the other, and each holds records for other uses."""
    point = read_point(out, "dpo_01")
    assert point.kl_by_prompt.tolist() == pytest.approx([3.0, 3.1, 3.2, 3.3])
    assert point.wins_by_prompt["judge"].tolist() == [1.0, 1.0, 1.0, 0.0]
    assert (point.kl.value, point.win_rate["judge"].value) == (pytest.approx(3.15), 0.75)
    assert list(point.win_rate) == ["judge"]  # no true reward here


@pytest.mark.parametrize("name", ["policy_sha256", "prompt"])
def test_scores_and_kl_of_different_policies_are_refused(out: Path, name: str) -> None:
    if name == "policy_sha256":
        write_json(out / "kl/mine/metrics.json", read_json(out / "kl/mine/metrics.json") | {name: "1" * 64})
    else:
        records = out / "score/mine/records.jsonl"
        records.write_text("".join(line for line in records.open() if '"p3"' not in line), "utf-8")
    with pytest.raises(UserError, match="of different policies or prompts; run `dvc repro`"):
        read_point(out, "mine")


def test_the_frontier_of_a_family(out: Path, view: FiguresView) -> None:
    """dpo_05 (KL 1.15, .375) and dpo_01 (3.15, .75) are a frontier; mine (4.15, .625) is alone, and
    below and right of dpo_01 by more than four prompts can show."""
    points = [read_point(out, run) for run in RUNS]
    betas = {"dpo_01": 0.1, "dpo_05": 0.5, "mine": 0.1}
    found = pareto(points, families(view.runs), betas, {"judge": 0.25}, 0.95, seed=0)
    assert [(row["run"], row["beta"], row["dominated"]) for row in found.points] == [
        ("dpo_01", 0.1, False),
        ("dpo_05", 0.5, False),
        ("mine", 0.1, False),
    ]
    (area,) = found.hypervolumes()
    assert area["family"] == "dpo" and area["reference_kl"] == pytest.approx(3.15)
    assert area["hypervolume"] == pytest.approx((3.15 - 1.15) * (0.375 - 0.25))
    stairs = {round(row["kl"], 3): row["win_rate"] for row in found.staircases()}
    assert stairs[0.0] == 0.25 and stairs[max(stairs)] == 0.75 and max(stairs) == pytest.approx(1.05 * 4.15, abs=1e-3)
    assert (stairs[1.15], stairs[3.15]) == (0.375, 0.75)  # each step is at its policy


def test_areas_reach_to_the_kl_that_every_family_reaches(out: Path, view: FiguresView) -> None:
    """DPO's policies are at KL 1.15 and 3.15, the other family's at 1.15 and 4.15: up to 3.15 both win .375."""
    points = [read_point(out, run) for run in RUNS]
    points.append(replace(points[1], run="mine_05"))
    runs = view.runs | {"mine_05": view.runs["mine"] | {"beta": 0.5}}
    betas = {run: config["beta"] for run, config in runs.items()}
    found = pareto(points, families(runs), betas, {"judge": 0.25}, 0.95, seed=0)
    assert [row["family"] for row in found.hypervolumes()] == ["dpo", "epsilon_dpo"]
    for row in found.hypervolumes():
        assert row["reference_kl"] == pytest.approx(3.15)
        assert row["hypervolume"] == pytest.approx((3.15 - 1.15) * (0.375 - 0.25))


def test_seeds_of_one_beta_are_one_point_of_the_frontier(out: Path, view: FiguresView) -> None:
    """The policy called mine taken for another seed of dpo_01: KL 3.15 and 4.15, wins .75 and .625. The best of the two
    is nothing that the method attains, and without another beta there is no frontier."""
    points = [read_point(out, run) for run in RUNS]
    again = replace(points[2], run="dpo_01_s18")
    runs = {run: view.runs[run] for run in RUNS[:2]} | {again.run: view.runs["dpo_01"] | {"seed": 18}}
    betas = {run: config["beta"] for run, config in runs.items()}
    found = pareto([*points[:2], again], families(runs), betas, {"judge": 0.25}, 0.95, seed=0)
    (area,) = found.hypervolumes()
    assert area["reference_kl"] == pytest.approx(3.65)
    assert area["hypervolume"] == pytest.approx((3.65 - 1.15) * (0.375 - 0.25))
    rates = {round(row["kl"], 3): row["win_rate"] for row in found.staircases()}
    assert (rates[3.15], rates[max(rates)]) == (0.375, 0.6875) and len(found.points) == 3
    judge = {"kind": "llm", "origin": "x"}
    assert pareto_caption(found, again, judge, 0.95).endswith(
        " Seeds of one β are one point of their line, the mean over them."
    )
    alone = pareto([points[0], again], families(runs), betas, {"judge": 0.25}, 0.95, seed=0)
    assert not alone.frontiers and "there is no frontier" in pareto_caption(alone, again, judge, 0.95)


def test_a_policy_is_dominated_where_the_data_say_so(out: Path, view: FiguresView) -> None:
    """The same three on a hundred times as many prompts."""
    points = [read_point(out, run) for run in RUNS]
    many = [
        replace(
            point,
            kl_by_prompt=np.tile(point.kl_by_prompt, 100),
            wins_by_prompt={scorer: np.tile(wins, 100) for scorer, wins in point.wins_by_prompt.items()},
            answers=np.tile(point.answers, 100),
        )
        for point in points
    ]
    found = pareto(many, families(view.runs), dict.fromkeys(RUNS), {"judge": 0.25}, 0.95, seed=0)
    assert [row["dominated"] for row in found.points] == [False, False, True]
    caption = pareto_caption(found, many[0], {"kind": "llm", "origin": "x"}, 0.9)
    assert "both outside the 90 % intervals of their differences, all pairs together." in caption


def test_the_way_through_the_epoch(out: Path) -> None:
    rows = trajectory(out, "mine")
    kl = [(row["step"], row["epoch"], row["value"]) for row in rows if row["metric"] == "kl_fwd_rb"]
    assert kl == [(2, 0.5, pytest.approx(2.15)), (4, 1.0, pytest.approx(4.15))]
    assert [row["value"] for row in rows if row["metric"] == "win rate by the judge"] == [0.25, 0.625]
    assert trajectory(out, "dpo_01") == []


def test_the_moving_average_does_not_start_at_zero(out: Path) -> None:
    """Weights 1/2 and 1/4 of two steps: (0 * 1/2 + 1 * 1/4) / (3/4)."""
    rows = ratios(out, "mine", smoothing=0.5)
    lowered = [(row["value"], row["smoothed"]) for row in rows if row["metric"] == "eps/lowered"]
    assert lowered == [(1.0, 1.0), (0.0, pytest.approx(1 / 3))]
    assert ratios(out, "dpo_01", smoothing=0.5) == []


def test_margins_of_each_group(out: Path) -> None:
    records, pairs = (read_jsonl(out / name) for name in ("monotonicity/dpo_01/records.jsonl", "validate/eval.jsonl"))
    decreasing, increasing = margins("dpo_01", 0.1, records, pairs, 0.95)
    assert (decreasing["n"], decreasing["share"], decreasing["margin"]) == (2, pytest.approx(1 / 3), 3.0)
    assert increasing["margin"] == pytest.approx(-0.5 / 3) and increasing["implicit_margin"] == pytest.approx(-0.05 / 3)
    assert increasing["implicit_margin_low"] == pytest.approx(0.1 * increasing["margin_low"])
    assert (decreasing["first_order_agreement"], increasing["first_order_agreement"]) == (1.0, pytest.approx(2 / 3))
    assert (decreasing["sign_of_h_agreement"], increasing["sign_of_h_agreement"]) == (1.0, pytest.approx(1 / 3))
    (free, _) = margins("rrhf", None, records, pairs, 0.95)
    assert "implicit_margin" not in free
    doubled, _ = margins("dpo_01", 0.1, records * 2, pairs, 0.95)
    assert doubled["n"] == 4, "pairs"
    ends = ("margin_low", "margin_high")
    assert [doubled[end] for end in ends] == pytest.approx([decreasing[end] for end in ends]), "of the same prompts"


def test_white_space_around_a_prompt_makes_no_interval_narrower(out: Path) -> None:
    records, pairs = (read_jsonl(out / name) for name in ("monotonicity/dpo_01/records.jsonl", "validate/eval.jsonl"))
    spaced = [
        pair | {"id": f"{pair['id']} spaced", "prompt": [turn | {"content": f" {turn['content']}\n"}]}
        for pair in pairs
        for turn in pair["prompt"]
    ]
    twins = records + [record | {"id": f"{record['id']} spaced"} for record in records]
    for once, twice in zip(
        margins("dpo_01", None, records, pairs, 0.95), margins("dpo_01", None, twins, pairs + spaced, 0.95), strict=True
    ):
        assert twice["n"] == 2 * once["n"], "pairs, of the same prompts"
        assert [twice[f"margin_{end}"] for end in ("low", "high")] == pytest.approx(
            [once[f"margin_{end}"] for end in ("low", "high")]
        )


def test_the_papers_four_pairs(out: Path) -> None:
    records = read_jsonl(out / "monotonicity/dpo_01/records.jsonl")
    rows = quoted("dpo_01", 0.1, records, read_jsonl(out / "validate/eval.jsonl"))
    found = [(row["title"][:7], row["direction"], row["margin"], row["chosen"], row["rejected"]) for row in rows]
    assert found == [
        ("Table 5", "decreasing", 5.0, "good 0", "bad 0"),
        ("Table 6", "increasing", 2.0, "good 2", "bad 2"),
        ("Table 7", "increasing", -3.0, "good 3", "bad 3"),
        ("Table 8", "decreasing", 1.0, "good 1", "bad 1"),
    ]
    assert rows[0]["implicit_margin"] == 0.5 and rows[0]["prompt"][0]["content"] == "question 0"


def test_every_kind_of_judge_has_a_name_in_the_captions() -> None:
    """A kind that loading.py knows and the captions do not would stop the pipeline after all its trainings."""
    loading = (Path(captions.__file__).parents[2] / "judging" / "judges" / "loading.py").read_text("utf-8")
    assert set(captions.KINDS) == set(re.findall(r'case "(\w+)":', loading))


def test_the_setting_that_a_caption_names_is_one_of_the_method() -> None:
    rows = [{"metric": "kl_fwd_rb", "n": 4}]
    said = captions.dynamics_caption(rows, rows, {"kind": "llm", "origin": "x"}, 0.9, 0.95)
    (setting,) = re.findall(r"an effect of its rounding to bfloat16, which (\w+): (\w+) has", said)
    method_of("x", {"method": "epsilon_dpo", "beta": 0.1, "epsilon": 0.01} | dict([setting]))
