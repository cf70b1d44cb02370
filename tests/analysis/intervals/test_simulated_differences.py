"""What only repetition can check of differences, places and agreement: intervals cover, singly and all at once.

As in intervals/test_simulations.py: known truths, fixed seeds, and an alternative that the same check finds wanting.
"""

import math
from itertools import combinations

import numpy as np
import pytest

from epsilon_dpo.analysis.intervals.bootstrap import cluster_bootstrap
from epsilon_dpo.analysis.intervals.differences import difference
from epsilon_dpo.judging.scoring.agreement import agreement, disagreement
from epsilon_dpo.judging.tournament.places import places
from epsilon_dpo.report.page.paired import verdicts

pytestmark = [pytest.mark.slow, pytest.mark.campaign]
CONFIDENCE = 0.95


def least(share: float, repetitions: int) -> float:
    """What a share of so many repetitions falls short of by chance in one case of a thousand."""
    return share - 3.0 * math.sqrt(share * (1.0 - share) / repetitions)


@pytest.mark.parametrize(
    ("m", "better", "worse"),
    [(20, 0.3, 0.1), (50, 0.02, 0.02), (256, 0.01, 0.01), (256, 0.02, 0.0), (256, 0.2, 0.15), (30, 0.95, 0.0)],
)
def test_a_difference_is_covered_also_where_few_prompts_differ(m, better, worse):
    generator, n = np.random.default_rng(0), 2000
    covered, naive = 0, 0
    for seed in range(n):
        throw = generator.random(m)
        values = np.where(throw < better, 1.0, np.where(throw < better + worse, -1.0, 0.0))
        found = difference(values, range(m), CONFIDENCE)
        covered += found.low <= better - worse <= found.high
        plain = cluster_bootstrap(values, range(m), CONFIDENCE, 200, seed)
        naive += plain.low <= better - worse <= plain.high
    assert covered / n >= least(CONFIDENCE, n)
    if better == 0.95:  # a bootstrap of thirty prompts that are all won, or all but one
        assert naive / n < least(CONFIDENCE, n)


def test_the_intervals_of_all_pairs_hold_at_once():
    """Four policies, two of them equally good: the intervals of single pairs all hold far less often."""
    generator, n, m = np.random.default_rng(1), 600, 100
    lifts = {"a": 0.0, "b": 0.05, "c": 0.15, "d": 0.15}
    truth = {(i, j): lifts[i] - lifts[j] for i, j in combinations(lifts, 2)}
    together, alone = 0, 0
    for _ in range(n):
        easy = generator.random(m) * 0.8
        wins = {name: (generator.random(m) < easy + lift).astype(float) for name, lift in lifts.items()}
        found = verdicts(wins, range(m), CONFIDENCE, 0.8)
        true = [truth[pair.first, pair.second] for pair in found]
        together += all(p.together.low <= x <= p.together.high for p, x in zip(found, true, strict=True))
        alone += all(p.difference.low <= x <= p.difference.high for p, x in zip(found, true, strict=True))
    assert together / n >= least(CONFIDENCE, n)
    assert alone / n < least(CONFIDENCE, n)


def test_places_hold_the_true_ones_at_once_and_equal_policies_share():
    generator, n, m = np.random.default_rng(2), 600, 60
    theta = np.array([0.9, 0.3, 0.3, -0.6])  # the second and the third are equally good
    first, second = np.array(list(combinations(range(4), 2))).T
    chance = 1.0 / (1.0 + np.exp(theta[second] - theta[first]))
    held, plain = 0, 0
    for _ in range(n):
        won = (generator.random((m, 6)) < chance).astype(float)
        games = np.zeros((m, 4, 4))
        games[:, first, second], games[:, second, first] = won, 1.0 - won
        order = np.argsort(-games.sum((0, 2)), kind="stable")
        found = dict(zip(order.tolist(), places(games[:, order][:, :, order], CONFIDENCE), strict=True))
        shared = [found[player] for player in (1, 2)]
        held += (
            found[0].first == 1 and found[3].last == 4 and all(place.first <= 2 and place.last >= 3 for place in shared)
        )
        plain += order.tolist() == [0, 1, 2, 3]
    assert held / n >= least(CONFIDENCE, n)
    assert plain / n < 0.6, "an order of point estimates is a coin's among equals"


@pytest.mark.parametrize("arbitrary", [False, True])
@pytest.mark.parametrize(
    ("m", "share", "accuracy", "ties"),
    [(256, 0.5, 0.85, 0.05), (100, 0.5, 0.97, 0.0), (256, 0.15, 0.85, 0.0), (40, 0.5, 0.9, 0.0)],
)
def test_kappa_and_alpha_are_covered(arbitrary, m, share, accuracy, ties):
    """A judge that errs and ties at random; first their values in a sample of two million."""
    generator, n = np.random.default_rng(3), 1000

    def drawn(size):
        truth = (generator.random(size) < share).astype(float)
        judge = np.where(generator.random(size) < accuracy, truth, 1.0 - truth)
        return truth, np.where(generator.random(size) < ties, 0.5, judge)

    truth, judge = drawn(2_000_000)
    cells = np.bincount((6 * truth + 2 * judge).astype(int), minlength=9).reshape(3, 3).astype(float)
    differs, *expected = disagreement((cells + cells[::-1, ::-1]) / 2.0 if arbitrary else cells)
    covered = np.zeros(2)
    for seed in range(n):
        found = agreement(*drawn(m), range(m), CONFIDENCE, 500, seed, sides_are_arbitrary=arbitrary)
        assert found is not None
        values = zip((found.kappa, found.alpha), expected, strict=True)
        covered += [one.low <= 1.0 - differs / by_chance <= one.high for one, by_chance in values]
    assert (covered / n >= least(CONFIDENCE, n)).all(), covered / n
