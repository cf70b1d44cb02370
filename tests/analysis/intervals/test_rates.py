import math

import numpy as np
import pytest

from epsilon_dpo.analysis.intervals.rates import mean, rate, standard_error, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # R: prop.test(x, n, correct = FALSE)$conf.int; 81 of 263 is Newcombe's (1998) worked example
        (81, 263, 0.2553, 0.3662),
        (0, 20, 0.0, 0.1611),
        (20, 20, 0.8389, 1.0),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_values(successes, n, low, high):
    assert wilson(successes, n, 0.95) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(("n", "half_width"), [(662, 0.037), (1300, 0.027), (4666, 0.014)])
def test_the_half_widths_that_the_protocol_states(n, half_width):
    low, high = wilson(0.6 * n, n, 0.95)
    assert (high - low) / 2 == pytest.approx(half_width, abs=5e-4)


def test_wilson_inverts_the_score_test():
    successes, n, z = 37.5, 90, 1.6448536
    for end in wilson(successes, n, 0.9):
        assert abs(successes / n - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), rel=1e-6)


def test_wilson_covers_what_it_promises_also_with_ties():
    draws = np.random.default_rng(3).choice([1.0, 0.5, 0.0], p=[0.5, 0.2, 0.3], size=(4000, 120)).sum(1)
    covered = np.mean([low <= 0.6 <= high for low, high in (wilson(s, 120, 0.95) for s in draws)])
    assert 0.945 <= covered <= 0.99


def test_wilson_refuses_what_is_no_rate():
    for successes, n, confidence in [(3, 2, 0.95), (-1, 2, 0.95), (0, 0, 0.95), (1, 2, 1.0), (1, 2, 95)]:
        with pytest.raises(ValueError):
            wilson(successes, n, confidence)


def test_rate_counts_a_tie_as_half():
    estimate = rate([1.0, 0.5, 0.5, 0.0], 0.95)
    assert estimate.value == 0.5 and estimate.n == 4
    assert (estimate.low, estimate.high) == wilson(2, 4, 0.95)
    assert set(estimate.named("win_rate")) == {"win_rate", "win_rate_low", "win_rate_high", "win_rate_n"}


def test_mean_by_hand():
    estimate = mean([1.0, 2.0, 3.0, 6.0], 0.95)  # s² = (4 + 1 + 0 + 9) / 3, se = sqrt(14 / 3) / 2
    assert estimate.value == 3.0
    assert standard_error([1.0, 2.0, 3.0, 6.0]) == pytest.approx(math.sqrt(14 / 3) / 2)
    assert estimate.high - 3.0 == pytest.approx(1.959964 * math.sqrt(14 / 3) / 2, rel=1e-6)
    with pytest.raises(ValueError):
        mean([], 0.95)
