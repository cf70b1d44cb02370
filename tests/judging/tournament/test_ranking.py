"""Bradley-Terry strengths against a published fit, closed forms and the likelihood's own equations."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.special import expit

from epsilon_dpo.judging.tournament.ranking import expected_win_rates, ranking, strengths, wins_by_prompt

# American League East, 1987: Milwaukee, Detroit, Toronto, New York, Boston, Cleveland, Baltimore (Agresti, Categorical
# Data Analysis, 2nd ed., table 10.10), and their log abilities against Baltimore's by R's BradleyTerry2
BASEBALL = np.array(
    [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ],
    float,
)
ABILITIES = [1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839, 0.0]


def plain(wins):
    """The maximum without the virtual games, whose half wins are taken off before they are put on."""
    k = len(wins)
    return strengths(wins - (1 - np.eye(k)) / (2 * (k - 1)))


def test_a_published_fit():
    theta = plain(BASEBALL)
    assert theta - theta[-1] == pytest.approx(ABILITIES, abs=6e-5)
    assert theta.mean() == pytest.approx(0.0, abs=1e-12)


def test_the_maximum_gives_each_run_the_wins_it_had():
    theta = plain(BASEBALL)
    expected = (BASEBALL + BASEBALL.T) * expit(theta[:, None] - theta)
    assert expected.sum(1) == pytest.approx(BASEBALL.sum(1), rel=1e-9)


def test_two_runs_by_hand():
    """Six wins and two losses: log 3; with the virtual tie log(6.5 / 2.5); one that lost everything stays finite."""
    wins = np.array([[0.0, 6.0], [2.0, 0.0]])
    assert np.diff(plain(wins)) == pytest.approx([-math.log(3)])
    assert np.diff(strengths(wins)) == pytest.approx([-math.log(2.6)])
    swept = strengths(np.array([[0.0, 1e6], [0.0, 0.0]]))
    assert np.diff(swept) == pytest.approx([-math.log(2e6 + 1)])


def test_a_run_that_won_everything_has_a_place():
    """Its plain estimate is infinite."""
    theta = strengths(np.array([[0.0, 5.0, 5.0], [0.0, 0.0, 3.0], [0.0, 2.0, 0.0]]))
    assert theta[0] > theta[1] > theta[2] and np.isfinite(theta).all()


def test_lopsided_games_converge():
    """Newton's full steps overshoot here until the curvature is 0. A virtual tie is an eighth of a win over each."""
    wins = np.array(
        [[0, 1, 0, 18, 0], [0, 0, 809, 0, 0], [0, 3, 0, 18453, 0], [440, 0, 0, 0, 0], [57060, 1, 0, 7, 0]], float
    )
    theta, games = strengths(wins), wins + 0.125 * (1 - np.eye(5))
    expected = (games + games.T) * expit(theta[:, None] - theta)
    assert expected.sum(1) == pytest.approx(games.sum(1), rel=1e-6)


def test_stacked_fits_are_the_single_ones():
    stack = np.stack([BASEBALL, BASEBALL.T, 100.0 * BASEBALL])
    assert strengths(stack) == pytest.approx(np.stack([strengths(one) for one in stack]), abs=1e-9)


def test_expected_win_rates():
    theta = np.array([math.log(3.0), 0.0, 0.0])
    assert expected_win_rates(theta) == pytest.approx([0.75, (0.25 + 0.5) / 2, (0.25 + 0.5) / 2])


def test_records_become_games():
    names, games = wins_by_prompt(["b", "a", "c"], ["a", "c", "b"], [1.0, 0.5, 0.0], ["p", "p", "q"])
    assert names == ["a", "b", "c"]
    assert games.tolist() == [[[0, 0, 0.5], [1, 0, 0], [0.5, 0, 0]], [[0, 0, 0], [0, 0, 1], [0, 0, 0]]]


@pytest.fixture
def records():
    """Four runs of strengths 1, 0.2, -0.2 and -1 on 80 prompts, all against all, a tenth of them ties."""
    generator, theta = np.random.default_rng(2), dict(zip("wxyz", [1.0, 0.2, -0.2, -1.0], strict=True))
    rows = [(i, j, prompt) for prompt in range(80) for i, j in combinations("wxyz", 2)]
    wins = [float(generator.random() < expit(theta[i] - theta[j])) for i, j, _ in rows]
    wins = np.where(generator.random(len(wins)) < 0.1, 0.5, wins)
    first, second, prompts = (list(column) for column in zip(*rows, strict=True))
    return first, second, wins, prompts


def test_ranking_orders_the_runs_and_brackets_them(records):
    ranked = ranking(*records, 0.95, 1000, 1)
    assert [run.name for run in ranked] == ["w", "x", "y", "z"]
    assert sum(run.strength.value for run in ranked) == pytest.approx(0.0, abs=1e-9)
    assert sum(run.win_rate.value for run in ranked) == pytest.approx(2.0)
    assert ranked[0].strength.low > ranked[1].strength.high
    for run in ranked:
        assert run.strength.low < run.strength.value < run.strength.high and run.strength.n == 80
        assert run.elo.value == pytest.approx(run.strength.value * 173.7178, rel=1e-6)
        assert 0.0 < run.win_rate.low < run.win_rate.value < run.win_rate.high < 1.0


def test_who_is_first_and_who_second_in_a_record_does_not_matter(records):
    first, second, wins, prompts = records
    swapped = ranking(second, first, 1.0 - wins, prompts, 0.95, 200, 1)
    for ours, theirs in zip(ranking(*records, 0.95, 200, 1), swapped, strict=True):
        assert ours.name == theirs.name and ours.strength.low == pytest.approx(theirs.strength.low)


def test_one_prompt_has_no_interval():
    with pytest.raises(ValueError, match="at least two"):
        ranking(["a"], ["b"], [1.0], ["p"], 0.95, 10, 0)
