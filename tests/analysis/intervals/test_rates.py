import math

import pytest

from epsilon_dpo.analysis.intervals.rates import mean, standard_error


def test_mean_by_hand():
    estimate = mean([1.0, 2.0, 3.0, 6.0], 0.95)  # s² = (4 + 1 + 0 + 9) / 3, se = sqrt(14 / 3) / 2
    assert estimate.value == 3.0
    assert standard_error([1.0, 2.0, 3.0, 6.0]) == pytest.approx(math.sqrt(14 / 3) / 2)
    assert estimate.high - 3.0 == pytest.approx(3.182446 * math.sqrt(14 / 3) / 2, rel=1e-6)  # t of 3 degrees of freedom
    with pytest.raises(ValueError):
        mean([], 0.95)
