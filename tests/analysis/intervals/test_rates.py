import math

import pytest

from epsilon_dpo.analysis.intervals.rates import mean, skewed_mean, standard_error, student_t


def test_mean_by_hand():
    estimate = mean([1.0, 2.0, 3.0, 6.0], 0.95)  # s² = (4 + 1 + 0 + 9) / 3, se = sqrt(14 / 3) / 2
    assert estimate.value == 3.0
    assert standard_error([1.0, 2.0, 3.0, 6.0]) == pytest.approx(math.sqrt(14 / 3) / 2)
    assert estimate.high - 3.0 == pytest.approx(3.182446 * math.sqrt(14 / 3) / 2, rel=1e-6)  # t of 3 degrees of freedom
    for few in ([], [3.0]):
        with pytest.raises(ValueError, match=f"{len(few)} values have no standard error"):
            mean(few, 0.95)


def test_the_interval_of_skewed_values_is_where_their_transformed_t_is_students():
    """1, 2, 3, 6: the third moment is (-8 - 1 + 0 + 27) / 4 and the second 14 / 4."""
    estimate = skewed_mean([1.0, 2.0, 3.0, 6.0], 0.95)
    skewness = 4.5 / 3.5**1.5
    error, t = math.sqrt(14 / 3) / 2, student_t(3, 0.95)
    for end, wanted in ((estimate.low, t), (estimate.high, -t)):
        z = (3.0 - end) / error
        transformed = z + skewness * z**2 / 6 + skewness**2 * z**3 / 108 + skewness / 12  # Hall's, of n = 4
        assert transformed == pytest.approx(wanted)
    assert estimate.value == 3.0 and estimate.high - 3.0 > 3.0 - estimate.low > 0.0
    mirrored = skewed_mean([-1.0, -2.0, -3.0, -6.0], 0.95)
    assert (mirrored.low, mirrored.high) == pytest.approx((-estimate.high, -estimate.low))
    for without in ([1.0, 2.0, 3.0], [1.0, 2.0], [0.3, 0.3, 0.3]):
        assert skewed_mean(without, 0.95) == mean(without, 0.95)
    barely = [1.0, 2.0, 3.0 + 1e-4]
    ends = [(found.low, found.high) for found in (skewed_mean(barely, 0.95), mean(barely, 0.95))]
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)
    low_level = skewed_mean([0.0] * 9 + [1.0], 0.01)
    assert low_level.low <= low_level.value <= low_level.high
