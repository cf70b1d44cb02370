"""What is measured of one replicate: numbers worked out by hand."""

import json
from typing import Any

import numpy as np
import pytest

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.study.collect import decisions, gap_by_definition, moves
from epsilon_dpo.study.measures import difference_at_equal_beta, early_difference, mean_of, win_rate_at_equal_kl

DPO, OURS = {"method": "dpo"}, {"method": "epsilon_dpo", "epsilon": 0.01}


def policy(recipe: dict[str, Any], beta: str, kl: float, true: float, place: str = ".") -> dict[str, Any]:
    return {"recipe": json.dumps(recipe, sort_keys=True), "beta": beta, "place": place, "kl": kl, "win_rate_true": true}


# DPO's win rate is .5 + KL / 10 from KL 0 to 4, ours .1 above it from 2 to 6: both span 2 to 4.
CURVES = [
    policy(DPO, "0.1", 4.0, 0.9),
    policy(DPO, "1.0", 0.0, 0.5),
    policy(OURS, "1.0", 2.0, 0.8),
    policy(OURS, "0.1", 6.0, 1.2),
    policy(OURS, "0.1", 100.0, 0.3, "snapshots/00047"),
    policy(DPO, "0.1", 100.0, 0.7, "snapshots/00047"),
]


def test_win_rates_are_compared_where_both_curves_have_a_kl_and_by_kl_alone() -> None:
    assert win_rate_at_equal_kl(CURVES, OURS, DPO, "true") == pytest.approx(0.1)
    # A third point .2 above: on top come 0 to .2 from KL 2 to 3 and .2 to .4 / 3 from 3 to 4, on average .1 and 1 / 6.
    more = [*CURVES, policy(OURS, "0.3", 3.0, 1.1)]
    assert win_rate_at_equal_kl(more, OURS, DPO, "true") == pytest.approx(0.1 + (0.1 + 1 / 6) / 2, abs=2e-3)


def test_curves_that_share_no_kl_are_not_compared() -> None:
    far = [*CURVES[:2], policy(OURS, "1.0", 5.0, 0.8), policy(OURS, "0.1", 6.0, 0.9)]
    with pytest.raises(UserError, match="share no KL"):
        win_rate_at_equal_kl(far, OURS, DPO, "true")


def test_differences_at_equal_beta_and_early() -> None:
    assert difference_at_equal_beta(CURVES, OURS, DPO, "kl") == pytest.approx(((6.0 - 4.0) + (2.0 - 0.0)) / 2)
    assert early_difference(CURVES, OURS, DPO, "win_rate_true") == pytest.approx(0.3 - 0.7)
    assert mean_of(CURVES, DPO, "kl") == pytest.approx(2.0)
    with pytest.raises(UserError, match="has beta"):
        difference_at_equal_beta(CURVES[:3], OURS, DPO, "kl")
    with pytest.raises(UserError, match="no policy of the recipe"):
        mean_of(CURVES, {"method": "ipo"}, "kl")


def test_moves_are_the_mean_share_of_decided_pairs_and_how_far_log_beta_went() -> None:
    curve = [
        {"step": 1, "eps/lowered": 0.5, "eps/raised": 0.25, "eps/beta_next": 0.09},
        {"step": 2, "eps/lowered": 0.125, "eps/raised": 0.125, "eps/beta_next": 0.05},
    ]
    assert moves(curve, beta=0.1) == {"decided_share": 0.5, "beta_change": pytest.approx(np.log(2.0))}
    assert moves([{"step": 1, "loss": 0.7}], beta=0.1) == {}


def test_decisions_against_margins() -> None:
    # h, first order (h - dK), step: +1 lowers beta, as of the stage monotonicity.
    rows = [(4.0, 3.0, 1), (2.0, 1.0, 1), (-1.0, -2.0, -1), (3.0, -1.0, -1), (0.0, 0.1, 0)]
    found = decisions([{"margin": h, "first_order": first, "step": step} for h, first, step in rows])
    assert (found["pairs"], found["decreasing"], found["increasing"]) == (5, 2, 2)
    assert found["margin_gap"] == pytest.approx(1.0 - 3.0)
    # β-DPO raises beta above the mean h of 1.6. Against it: 4 and 2 lowered, -1 raised; with it: 3 raised.
    assert found["against_beta_dpo"] == pytest.approx(3 / 4)


def test_the_gap_of_the_definition_is_that_of_every_margin_with_every_shift() -> None:
    generator = np.random.default_rng(0)
    h, shift = generator.normal(1.0, 2.0, 40), np.round(generator.normal(0.5, 1.0, 40), 1)
    below = [margin for margin in h for other in shift if margin < other]
    above = [margin for margin in h for other in shift if margin > other]
    assert gap_by_definition(h, shift) == pytest.approx(np.mean(below) - np.mean(above))
    rule = np.sign(h[:, None] - shift)  # pairs of independent h and shift: nothing is left beyond the definition
    records = [
        {"margin": margin, "first_order": margin - other, "step": step}
        for margin, steps in zip(h, rule, strict=True)
        for other, step in zip(shift, steps, strict=True)
    ]
    assert decisions(records)["margin_gap_beyond"] == pytest.approx(0.0, abs=1e-12)
