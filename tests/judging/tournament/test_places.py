"""Places that the data leave open: shared where nothing separates, single where all do, and the line that says so."""

from itertools import combinations

import numpy as np
import pytest

from epsilon_dpo.analysis.intervals.differences import difference
from epsilon_dpo.judging.tournament.places import Place, chain, places, separated
from epsilon_dpo.judging.tournament.ranking import ranking, wins_by_prompt


def games(chances: dict[tuple[str, str], float], prompts: int = 100) -> tuple[list[str], np.ndarray]:
    """Each pair's games, of which the first wins as many as its chance says, on prompts spread evenly."""
    first, second, wins, labels = [], [], [], []
    for (one, other), chance in chances.items():
        won = np.arange(prompts) < round(chance * prompts)
        wins += np.random.default_rng(len(first)).permutation(won).astype(float).tolist()
        first, second, labels = first + [one] * prompts, second + [other] * prompts, labels + list(range(prompts))
    return wins_by_prompt(first, second, wins, labels)


def test_where_all_separate_each_has_its_place() -> None:
    _, found = games({("a", "b"): 0.8, ("a", "c"): 0.95, ("b", "c"): 0.8})
    assert places(found, 0.95) == [Place(1, 1, 1), Place(2, 2, 2), Place(3, 3, 3)]


def test_where_nothing_separates_all_share_all_places() -> None:
    _, found = games({("a", "b"): 0.52, ("a", "c"): 0.5, ("b", "c"): 0.51})
    assert places(found, 0.95) == [Place(1, 3, 1)] * 3


def test_neighbours_may_share_where_the_ends_do_not() -> None:
    """a is above c, but b is told from neither: no place is sure but that a is not last and c not first."""
    _, found = games({("a", "b"): 0.55, ("a", "c"): 0.7, ("b", "c"): 0.55})
    assert separated(found, 0.95).tolist() == [[False, False, True], [False, False, False], [False, False, False]]
    assert places(found, 0.95) == [Place(1, 2, 1), Place(1, 3, 1), Place(2, 3, 1)]


def test_a_group_ends_where_each_is_separated_from_each_that_follows() -> None:
    chances = {("a", "b"): 0.5, ("c", "d"): 0.5} | {(one, other): 0.8 for one in "ab" for other in "cd"}
    _, found = games(chances)
    assert places(found, 0.95) == [Place(1, 2, 1)] * 2 + [Place(3, 4, 2)] * 2


def test_few_prompts_separate_nothing_however_they_end() -> None:
    """Three prompts, all won by a: resampling them would show no other outcome."""
    _, found = games({("a", "b"): 1.0}, prompts=3)
    assert places(found, 0.95) == [Place(1, 2, 1)] * 2
    _, found = games({("a", "b"): 1.0}, prompts=20)
    assert places(found, 0.95) == [Place(1, 1, 1), Place(2, 2, 2)]


@pytest.mark.parametrize("met", [1, 2])
@pytest.mark.parametrize("lost", [0, 3])
def test_two_policies_are_separated_where_the_difference_of_their_shares_is_above_0(met: int, lost: int) -> None:
    """However often they met on each prompt; the others of 20 prompts are ties."""
    decided = []
    for won in range(18 - lost):
        outcomes = np.repeat([1.0, 0.5, 0.0], [won, 20 - won - lost, lost])
        labels = np.repeat(range(20), met).tolist()
        _, found = wins_by_prompt(["a"] * 20 * met, ["b"] * 20 * met, np.repeat(outcomes, met), labels)
        decided.append(bool(separated(found, 0.95)[0, 1]))
        assert decided[-1] == (difference(2.0 * outcomes - 1.0, range(20), 0.95).low > 0.0), won
    assert set(decided) == {True, False}


def test_more_policies_are_harder_to_separate() -> None:
    """A share of .62 of 100 prompts separates two, but not where five have ten pairs."""
    _, two = games({("a", "b"): 0.62})
    _, five = games({pair: 0.62 if pair == ("a", "b") else 0.5 for pair in combinations("abcde", 2)})
    assert places(two, 0.95)[0] == Place(1, 1, 1) and places(five, 0.95)[0] == Place(1, 5, 1)


def test_a_policy_without_games_is_refused() -> None:
    _, found = wins_by_prompt(["a", "a", "a"], ["b", "b", "c"], [1.0, 1.0, 1.0], [0, 1, 1])
    with pytest.raises(ValueError, match="no game on one of the prompts"):
        places(found, 0.95)


def test_the_places_stand_in_the_order_of_the_strengths() -> None:
    """The names in another order than the strengths."""
    first, second, wins = ["z"] * 40 + ["z"] * 40 + ["a"] * 40, ["a"] * 40 + ["m"] * 40 + ["m"] * 40, [1.0] * 80
    ranked = ranking(first, second, wins + [0.0] * 40, list(range(40)) * 3, 0.95, 100, 0)
    assert [run.name for run in ranked] == ["z", "m", "a"]
    assert [run.place for run in ranked] == [Place(1, 1, 1), Place(2, 2, 2), Place(3, 3, 3)]


def test_the_line_orders_groups_alone() -> None:
    rows: list[dict[str, object]] = [
        {"policy": name, "group": group} for name, group in zip("abcd", (1, 1, 2, 3), strict=True)
    ]
    assert chain(rows, 5) == "a ~ b > c > d" and chain(rows, 3) == "a ~ b > c …" and chain(rows[:1], 3) == "a"


def test_a_policy_stands_between_its_places_where_prompts_have_unequally_many_games() -> None:
    """Three prompts of twenty games that a wins outweigh 36 of one game that b wins, in strengths and in places."""
    first, second, wins, prompts = [], [], [], []
    for prompt, (games, won) in enumerate([(1, 0.0)] * 36 + [(1, 0.5)] * 4 + [(20, 1.0)] * 3):
        for a, b, win in (("a", "b", won), ("a", "c", 0.5), ("b", "c", 0.5)):
            first += [a] * games
            second += [b] * games
            wins += [win] * games
            prompts += [prompt] * games
    ranked = ranking(first, second, wins, prompts, 0.95, 100, 0)
    assert [run.name for run in ranked] == ["a", "c", "b"]
    assert all(run.place.first <= position <= run.place.last for position, run in enumerate(ranked, 1))
