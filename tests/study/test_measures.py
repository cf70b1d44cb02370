"""What is measured of one replicate: numbers worked out by hand."""

import json
from typing import Any

import numpy as np
import pytest

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.study.collect import decisions, gap_by_definition, moves
from epsilon_dpo.study.measures import (
    BEHIND,
    BOTH_HAVE,
    BOTH_TO_BEST,
    ONE_HAS_NONE,
    TO_BEST,
    difference_at_equal_beta,
    early_difference,
    hull,
    mean_of,
    win_rate_at_equal_kl,
)

DPO, OURS = {"method": "dpo"}, {"method": "epsilon_dpo", "epsilon": 0.01}


def policy(recipe: dict[str, Any], beta: str, kl: float, true: float, epoch: float = 1.0) -> dict[str, Any]:
    name, place = json.dumps(recipe, sort_keys=True), "." if epoch == 1.0 else f"snapshots/{epoch}"
    row = {"run": "x", "recipe": name, "beta": beta, "place": place, "epoch": epoch}
    return row | {"kl": str(kl), "win_rate_true": str(true), "win_rate_judge": "", "prompts": "100"}


SFT = policy({"method": "sft"}, "", 0.0, 0.5)


def test_a_curve_is_the_upper_concave_hull_and_never_falls() -> None:
    at = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 9.0])
    kl, wins = np.array([0.0, 2.0, 3.5, 4.0, 6.0]), np.array([0.5, 0.7, 0.8, 0.9, 0.6])
    assert hull(kl, wins, at) == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.9]), "(3.5, .8) is under the line"
    assert hull(np.array([0.0, 2.0, 2.0]), np.array([0.5, 0.6, 0.8]), at)[:3] == pytest.approx([0.5, 0.65, 0.8])
    assert hull(np.array([0.0, 2.0]), np.array([0.5, 0.3]), at) == pytest.approx([0.5] * 7), "SFT costs nothing"


def test_win_rates_are_compared_up_to_the_kl_that_both_spend() -> None:
    """DPO rises from .5 to .7 at KL 2 and .9 at 4; ours to .9 at 2, then falls."""
    rows = [SFT, policy(DPO, "1.0", 2.0, 0.7), policy(DPO, "0.1", 4.0, 0.9)]
    rows += [policy(OURS, "1.0", 2.0, 0.9), policy(OURS, "0.1", 8.0, 0.4), policy(OURS, "0.1", 1.0, 1.0, epoch=0.2)]
    ahead = win_rate_at_equal_kl(rows, OURS, DPO, "true").value
    assert ahead == pytest.approx(0.1, abs=1e-3)  # a triangle of .2 over [0, 4]
    assert win_rate_at_equal_kl(rows, DPO, OURS, "true").value == pytest.approx(-0.1, abs=1e-3)
    with pytest.raises(UserError, match="has no win_rate_judge"):
        win_rate_at_equal_kl(rows, OURS, DPO, "judge")


def test_what_nobody_has_to_spend_separates_no_curves() -> None:
    same = [SFT, policy(DPO, "1.0", 1.0, 0.6), policy(DPO, "0.3", 3.0, 0.8), policy(DPO, "0.1", 6.0, 0.5)]
    same += [policy(OURS, "1.0", 1.0, 0.6), policy(OURS, "0.3", 3.0, 0.8), policy(OURS, "0.1", 6.0, 0.8)]
    assert win_rate_at_equal_kl(same, OURS, DPO, "true").value == 0.0


def test_budgets_are_of_three_kinds_whose_means_make_the_whole() -> None:
    """DPO has policies at KL 1 and 4, ours at 2 and 6, the best of DPO at 4 and of ours at 2; budgets reach to 5."""
    rows = [SFT, policy(DPO, "1.0", 1.0, 0.6), policy(DPO, "0.1", 4.0, 0.9), policy(DPO, "0.03", 5.0, 0.7)]
    rows += [policy(OURS, "1.0", 2.0, 0.9), policy(OURS, "0.1", 6.0, 0.8)]
    found = win_rate_at_equal_kl(rows, OURS, DPO, "true")
    assert {name: part.share for name, part in found.parts.items()} == pytest.approx(
        {ONE_HAS_NONE: 2 / 5, BOTH_HAVE: 2 / 5, BEHIND: 1 / 5}, abs=1e-2
    )
    # Ours is .5 + .2 KL up to 2, then .9; DPO .5 + .1 KL up to 4, then .9: ahead by .1 KL, then by .4 - .1 KL, then 0.
    assert [part.value for part in found.parts.values()] == pytest.approx([0.1, 0.1, 0.0], abs=1e-2)
    assert found.value == pytest.approx(sum(part.share * part.value for part in found.parts.values()))
    assert found.grain == 0.5 / 100
    no_policy_is_better = [SFT, policy(DPO, "1.0", 1.0, 0.4), policy(OURS, "1.0", 2.0, 0.3)]
    assert list(win_rate_at_equal_kl(no_policy_is_better, OURS, DPO, "true").parts) == [BEHIND], "SFT is the best"


def test_other_ranges_of_budgets_end_at_the_later_best_policy() -> None:
    """Ours is .5 + .2 KL up to 2, then .9; DPO .5 + .4 KL up to 1, then .9 + .05 (KL - 1) up to 3, then 1. So ours is
    behind by 0 to .2 up to 1, by .2 to .05 up to 2, by .05 to .1 up to 3, then by .1."""
    rows = [SFT, policy(DPO, "1.0", 1.0, 0.9), policy(DPO, "0.3", 3.0, 1.0), policy(DPO, "0.1", 9.0, 0.1)]
    rows += [policy(OURS, "1.0", 2.0, 0.9), policy(OURS, "0.1", 9.0, 0.2)]
    found = win_rate_at_equal_kl(rows, OURS, DPO, "true")
    assert found.ranges == pytest.approx({TO_BEST: -(0.1 + 0.125 + 0.075) / 3, BOTH_TO_BEST: -0.075}, abs=1e-3)
    assert found.value == pytest.approx(-(0.1 + 0.125 + 0.075 + 6 * 0.1) / 9, abs=1e-3)
    early = [SFT, policy(DPO, "1.0", 1.0, 0.9), policy(DPO, "0.3", 3.0, 0.8), policy(OURS, "1.0", 2.0, 0.6)]
    early += [policy(OURS, "0.1", 4.0, 0.5)]
    assert win_rate_at_equal_kl(early, OURS, DPO, "true").ranges[BOTH_TO_BEST] == pytest.approx(-0.3), "of the best"
    late = [SFT, policy(DPO, "1.0", 1.0, 0.3), policy(OURS, "1.0", 2.0, 0.4)]
    assert win_rate_at_equal_kl(late, OURS, DPO, "true").ranges == {TO_BEST: 0.0, BOTH_TO_BEST: 0.0}, "SFT is the best"


def test_a_fixed_range_of_budgets_is_the_same_wherever_the_curves_end() -> None:
    """DPO is .5 + .1 KL up to 4, then .9; ours .5 + .2 KL up to 2, then .9: ahead by .1 to .2, then by .2 to .1."""
    rows = [SFT, policy(DPO, "1.0", 1.0, 0.6), policy(DPO, "0.1", 4.0, 0.9), policy(OURS, "1.0", 2.0, 0.9)]
    found = win_rate_at_equal_kl(rows, OURS, DPO, "true", budgets=[1.0, 3.0])
    assert found.value == pytest.approx(0.15, abs=1e-3)
    assert {name: part.share for name, part in found.parts.items()} == {ONE_HAS_NONE: 0.5, BOTH_HAVE: 0.5}
    whole = win_rate_at_equal_kl(rows, OURS, DPO, "true")
    assert whole.value == pytest.approx(0.1, abs=1e-3) and found.ranges == whole.ranges, "beside it are the same ranges"
    longer = [*rows, policy(DPO, "0.03", 9.0, 0.2), policy(OURS, "0.03", 9.0, 0.1)]
    assert win_rate_at_equal_kl(longer, OURS, DPO, "true", budgets=[1.0, 3.0]) == found
    beyond = win_rate_at_equal_kl(rows, OURS, DPO, "true", budgets=[1.0, 6.0])  # no policy is needed at 6
    assert beyond.value == pytest.approx((0.15 * 2 + 0.05 * 1 + 0.0 * 2) / 5, abs=1e-3)
    assert beyond.parts[BEHIND] == (pytest.approx(2 / 5, abs=1e-2), 0.0)


def test_differences_at_equal_beta_and_early() -> None:
    rows = [policy(DPO, "0.1", 4.0, 0.9), policy(DPO, "1.0", 0.0, 0.5)]
    rows += [policy(OURS, "0.1", 6.0, 0.9), policy(OURS, "1.0", 2.0, 0.8)]
    found = difference_at_equal_beta(rows, OURS, DPO, "win_rate_true")
    assert found.value == pytest.approx((0.0 + 0.3) / 2) and found.grain == 0.5 / 100
    assert found.parts == {"at β 0.1": (0.5, 0.0), "at β 1.0": (0.5, pytest.approx(0.3))}
    found = difference_at_equal_beta(rows, OURS, DPO, "kl")
    assert found.value == pytest.approx(((6.0 - 4.0) + (2.0 - 0.0)) / 2) and found.grain == 0.0
    written = [row | {"beta": "1"} if row["beta"] == "1.0" else row for row in rows[:2]] + rows[2:]
    assert difference_at_equal_beta(written, OURS, DPO, "kl").value == 2.0, "1 and 1.0 are one beta"
    assert list(difference_at_equal_beta(rows[::-1], OURS, DPO, "kl").parts) == ["at β 0.1", "at β 1.0"]
    fewer = [*rows[:3], rows[3] | {"prompts": "80"}]
    assert difference_at_equal_beta(fewer, OURS, DPO, "win_rate_true").grain == 0.5 / 80
    assert mean_of(rows, DPO, "kl", betas=[0.1]).value == 4.0
    with pytest.raises(UserError, match=r"no policy at β 0\.5"):
        mean_of(rows, DPO, "kl", betas=[0.5, 0.1])
    with pytest.raises(UserError, match="policies have no column win_rate_ture; there are"):
        mean_of(rows, DPO, "win_rate_ture")
    early = [policy(DPO, "0.1", 1.0, 0.7, 0.2), policy(DPO, "0.1", 1.0, 0.1, 0.4)]
    early += [policy(OURS, "0.1", 1.0, at, epoch) for at, epoch in ((0.5, 0.1), (0.3, 0.2), (0.9, 0.4))]  # .1: alone
    first = early_difference(rows + early, OURS, DPO, "win_rate_true")
    assert first.value == pytest.approx(0.3 - 0.7) and list(first.parts) == ["at β 0.1"], "the first alone"
    assert mean_of(rows, DPO, "kl").value == pytest.approx(2.0)
    beyond = mean_of(rows, DPO, "kl", minus="win_rate_true")
    assert beyond.value == pytest.approx(2.0 - mean_of(rows, DPO, "win_rate_true").value)
    with pytest.raises(UserError, match=r"the betas differ: 0\.1, 1\.0 and 0\.1"):
        difference_at_equal_beta([*rows[:2], rows[2]], DPO, OURS, "kl")
    with pytest.raises(UserError, match="no policy of"):
        mean_of(rows, {"method": "ipo"}, "kl")
    with pytest.raises(UserError, match=r"two policies of .* at one beta"):
        mean_of([*rows, policy(DPO, "0.1", 5.0, 0.9)], DPO, "kl")
    with pytest.raises(UserError, match="no snapshots of the same steps"):
        early_difference(rows, OURS, DPO, "win_rate_true")


def test_moves_are_the_mean_shares_of_a_step_and_how_far_log_beta_went() -> None:
    curve = [
        {"step": 1, "eps/lowered": 0.5, "eps/raised": 0.25, "eps/beta_next": 0.09},
        {"step": 2, "eps/lowered": 0.25, "eps/raised": 0.125, "eps/beta_next": 0.05},
    ]
    found = moves(curve, beta=0.1)
    assert found == {"lowered_share": 0.375, "raised_share": 0.1875, "beta_change": pytest.approx(np.log(2.0))}
    assert moves([{"step": 1, "loss": 0.7}], beta=0.1) == moves(curve, beta=None) == {}


def records(rows: list[tuple[float, float, int]]) -> list[dict[str, Any]]:
    """Of margin h, first order (h - dK) and step: +1 lowers beta, as of the stage monotonicity."""
    return [{"margin": h, "first_order": first, "step": step} for h, first, step in rows]


def test_decisions_against_margins() -> None:
    found = decisions(records([(4.0, 3.0, 1), (2.0, 1.0, 1), (-1.0, -2.0, -1), (3.0, -1.0, -1), (0.0, 0.1, 0)]))
    assert (found["pairs"], found["decreasing"], found["increasing"]) == (5, 2, 2)
    assert found["margin_gap"] == pytest.approx(1.0 - 3.0)
    # β-DPO raises beta above the mean h of 1.6: against ε-DPO at 4 and 2, which it lowers, and at -1, which it raises.
    # By chance, with three of four above the mean and two of four lowered: 3/4 x 1/2 + 1/4 x 1/2.
    assert found["against_beta_dpo"] == pytest.approx(3 / 4 - 1 / 2)
    # The rule of first order: below are -1 and 3, above 4, 2 and 0. dK is 1, 1, 1, 4 and -.1.
    below = np.average([4.0, 2.0, -1.0, 3.0, 0.0], weights=[0, 1, 5, 1, 4])
    above = np.average([4.0, 2.0, -1.0, 3.0, 0.0], weights=[4, 4, 0, 4, 1])
    assert found["margin_gap_beyond"] == pytest.approx((1.0 - 2.0) - (below - above))


def test_a_group_without_pairs_has_no_margins() -> None:
    found = decisions(records([(4.0, 3.0, 1), (2.0, 1.0, 1)]))
    assert found == {"pairs": 2, "decreasing": 2, "increasing": 0}
    assert gap_by_definition(np.array([2.0, 3.0]), np.array([0.0, 1.0])) is None


def test_nothing_is_beyond_the_definition_where_margins_and_kls_are_independent() -> None:
    """Also where pairs near the threshold are left undecided, which the groups of stage monotonicity leave out."""
    generator = np.random.default_rng(0)
    h, shift = generator.normal(1.0, 2.0, 40), np.round(generator.normal(0.5, 1.0, 40), 1)
    below = [margin for margin in h for other in shift if margin < other]
    above = [margin for margin in h for other in shift if margin > other]
    assert gap_by_definition(h, shift) == pytest.approx(np.mean(below) - np.mean(above))
    every = [(a, a - b, int(np.sign(a - b) * (abs(a - b) > 0.3))) for a in h for b in shift]
    assert decisions(records(every))["margin_gap_beyond"] == pytest.approx(0.0, abs=1e-12)
