"""A judge's certainty against its labels, by hand."""

import math

import pytest

from epsilon_dpo.judging.scoring.calibration import calibration
from epsilon_dpo.judging.scoring.intervals import Intervals

INTERVALS = Intervals(0.95, 0)


def record(prompt: int, logit: float) -> dict:
    return {"prompt_id": f"p{prompt}", "logit": logit, "win": 0.5 if logit == 0.0 else float(logit > 0.0)}


def test_certainty_minus_right_verdicts_and_the_likelihood_of_the_labels() -> None:
    """P of 3/4 is a logit of 2 log 3: right three times, wrong once, is as sure as right; a tie is sure of nothing."""
    sure = 2.0 * math.log(3.0)
    records = [record(prompt, logit) for prompt, logit in enumerate([sure, sure, sure, -sure, 0.0])]
    found = calibration(records, INTERVALS)
    assert found["overconfidence"] == pytest.approx(0.0, abs=1e-12)
    assert found["label_nll"] == pytest.approx(-(3 * math.log(0.75) + math.log(0.25) + math.log(0.5)) / 5)
    assert found["overconfidence_n"] == 5 and found["overconfidence_low"] < 0.0 < found["overconfidence_high"]


def test_one_prompt_says_nothing_of_others() -> None:
    assert calibration([record(0, 1.0), record(0, -2.0)], INTERVALS) == {}


def test_a_judge_that_is_surer_than_right_has_a_positive_one() -> None:
    records = [record(prompt, 20.0 if prompt % 2 else -20.0) for prompt in range(40)]
    found = calibration(records, INTERVALS)
    assert found["overconfidence"] == pytest.approx(0.5, abs=1e-4) and found["overconfidence_low"] > 0.2
    assert found["label_nll"] == pytest.approx(5.0, abs=1e-3)
