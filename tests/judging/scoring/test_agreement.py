"""Kappa and alpha: published examples, scikit-learn, and what they must be where two agree by chance or always."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from scipy.stats import norm, t
from sklearn.metrics import cohen_kappa_score

from epsilon_dpo.judging.scoring.agreement import Agreement, agreement, disagreement


def indices(cells: Sequence[Sequence[float]]) -> tuple[float, float]:
    differs, by_kappa, by_alpha = disagreement(np.array(cells, float))
    return float(1.0 - differs / by_kappa), float(1.0 - differs / by_alpha)


def of(first: Sequence[float], second: Sequence[float], **options: bool) -> Agreement:
    found = agreement(first, second, range(len(first)), 0.95, 2000, 0, **options)
    assert found is not None
    return found


def test_kappa_of_a_published_table() -> None:
    """Fleiss, Cohen and Everitt, Psychological Bulletin 72 (1969), table 1, 200 pairs: kappa .429."""
    kappa, _ = indices([[106, 10, 4], [22, 28, 10], [2, 12, 6]])
    assert kappa == pytest.approx(0.429, abs=5e-4)


def test_alpha_of_published_data() -> None:
    """Krippendorff, "Computing Krippendorff's alpha-reliability" (2011): A. binary, .095; B. nominal, .692."""
    meg, owen = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert of(meg, owen).alpha.value == pytest.approx(0.095, abs=5e-4)
    cells = np.zeros((5, 5))
    for ben, gerry in zip("aabbdcccedda", "babbbccceddd", strict=True):
        cells["abcde".index(ben), "abcde".index(gerry)] += 1
    assert indices(cells.tolist())[1] == pytest.approx(0.692, abs=5e-4)


def test_kappa_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.choice([0.0, 0.5, 1.0], (2, 60), p=[0.3, 0.1, 0.6])
    other[:30] = one[:30]
    expected = cohen_kappa_score((2 * one).astype(int), (2 * other).astype(int))
    found = of(one.tolist(), other.tolist())
    assert found.kappa.value == pytest.approx(expected)
    assert found.kappa.low < expected < found.kappa.high and found.kappa.n == 60


def test_chance_is_0_and_always_is_1() -> None:
    """By hand: of four pairs two agree, as chance would have it; a rater who always says a agrees by chance."""
    assert of([1, 1, 0, 0], [1, 0, 1, 0]).kappa.value == 0.0
    assert of([1] * 8, [1] * 7 + [0]).kappa.value == 0.0
    found = of([1, 0, 0.5, 1] * 10, [1, 0, 0.5, 1] * 10)
    assert found.kappa.value == found.kappa.high == found.alpha.value == 1.0
    assert 0.7 < found.kappa.low < 0.95, "40 pairs without a difference do not say that there is none"
    assert of([1, 0] * 5, [0, 1] * 5).kappa.value == -1.0


def test_where_the_sides_are_arbitrary_a_label_is_no_party() -> None:
    """The label always says a: against it, 8 of 10 right are kappa 2 (.8) - 1; a tie is a verdict of its own."""
    label = [1.0] * 10
    assert of(label, [1] * 8 + [0] * 2, sides_are_arbitrary=True).kappa.value == pytest.approx(0.6)
    assert of(label, [1] * 8 + [0] * 2).kappa.value == 0.0
    # .8 agree; by chance 1/2 (.9) do: the label never ties
    assert of(label, [1] * 8 + [0, 0.5], sides_are_arbitrary=True).kappa.value == pytest.approx((0.8 - 0.45) / 0.55)


def test_with_nothing_to_agree_on_there_is_no_value() -> None:
    assert agreement([1.0, 1.0], [1.0, 1.0], ["a", "b"], 0.95, 10, 0) is None
    assert agreement([1.0, 0.0], [1.0, 0.0], ["a", "a"], 0.95, 10, 0) is None
    assert agreement([0.5, 0.5], [0.5, 0.5], ["a", "b"], 0.95, 10, 0, sides_are_arbitrary=True) is None


def test_the_ends_are_quantiles_of_all_resamples_with_two_imaginary_prompts() -> None:
    """Of three pairs of one prompt and one of another: 8 verdicts, 3 of them b and 5 a; two pairs a prompt."""
    found = agreement([1, 1, 1, 0], [1, 1, 0, 0], ["p", "p", "p", "q"], 0.4, 40_000, 1)
    assert found is not None
    cells = np.zeros((4, 3, 3))
    cells[0, 2, 2], cells[0, 2, 0], cells[1, 0, 0] = 2, 1, 1
    cells[2, 0, 0], cells[2, 2, 2] = 2 * 9 / (9 + 25), 2 * 25 / (9 + 25)
    cells[3, 0, 2] = cells[3, 2, 0] = 2 * 15 / (15 + 15)
    drawn = cells[np.array(list(product(range(4), repeat=4)))].sum(1)
    level = norm.cdf(-np.sqrt(2) * t.ppf(0.7, 1))
    differs, *expected = disagreement(drawn)
    for estimate, by_chance in zip((found.kappa, found.alpha), expected, strict=True):
        # All verdicts of a resample can be one: nothing differs, nor could it.
        every = np.sort([1.0 - d / e if e > 0.0 else 1.0 for d, e in zip(differs, by_chance, strict=True)])
        ends = every[int(256 * level)], every[int(256 * (1 - level))]
        assert (estimate.low, estimate.high) == pytest.approx(ends, abs=1e-12) and estimate.n == 2


def test_prompts_are_resampled_whole() -> None:
    """Four answers each that all agree or all differ say as much as one."""
    one, other = np.tile([1.0, 0.0], 20), np.tile([1.0, 0.0, 1.0, 1.0], 10)
    single = of(one.tolist(), other.tolist()).kappa
    four = agreement(np.repeat(one, 4), np.repeat(other, 4), np.repeat(range(40), 4), 0.95, 2000, 0)
    assert four is not None and four.kappa.value == pytest.approx(single.value) and four.kappa.n == 40
    assert (four.kappa.low, four.kappa.high) == pytest.approx((single.low, single.high))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [([1.0], [1.0, 0.0], "one length"), ([], [], "one length"), ([1.0], [0.3], "1, 1/2 or 0")],
)
def test_other_verdicts_are_refused(first: list[float], second: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agreement(first, second, ["p"] * len(first), 0.95, 10, 0)
