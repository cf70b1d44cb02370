"""What is measured of one replicate: a number from the rows of its policies, which claims compare over replicates.

A row is a policy (collect.py). Recipes are entries of params.yaml's `runs` without beta, seed and snapshots; a recipe
with several beta is a curve of win rate against KL.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from epsilon_dpo.analysis.intervals.bootstrap import Floats
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.runs.runs import FINAL

Row = dict[str, Any]
Recipe = dict[str, Any]
GRID = 64  # KL budgets at which two curves are compared, evenly between the ends of what both span


def of_recipe(rows: Sequence[Row], recipe: Recipe, final: bool = True) -> list[Row]:
    """The policies of a recipe by beta; also the snapshots unless `final`.

    Raises:
        UserError: there is none.
    """
    name = json.dumps(recipe, sort_keys=True)
    found = [row for row in rows if row["recipe"] == name and (not final or row["place"] == FINAL)]
    if not found:
        raise UserError(f"no policy of the recipe {name} is among the results; the level's preset must hold its runs.")
    return sorted(found, key=lambda row: float(row["beta"]))


def win_rate_at_equal_kl(rows: Sequence[Row], first: Recipe, second: Recipe, scorer: str) -> float:
    """By how much `first` wins more than `second` at the same KL, on average over the KLs that both curves span.

    Between two trained policies a curve is straight: answering each prompt with the one or the other at random attains
    that win rate, and its KL is at most that (KL is convex). Points of a curve lie by KL, whatever their beta.

    Raises:
        UserError: the curves share no KL.
    """
    curves = [_curve(of_recipe(rows, recipe), scorer) for recipe in (first, second)]
    low, high = (end(side(kl) for kl, _ in curves) for end, side in ((max, np.min), (min, np.max)))
    if low >= high:
        raise UserError(f"{first} and {second} share no KL: the one ends at {high:.2f}, the other begins at {low:.2f}.")
    budgets = np.linspace(low, high, GRID)
    ours, theirs = (np.interp(budgets, kl, wins) for kl, wins in curves)
    return float(np.mean(ours - theirs))


def difference_at_equal_beta(rows: Sequence[Row], first: Recipe, second: Recipe, column: str) -> float:
    """Mean over the beta of `first` minus `second` in `column`.

    Raises:
        UserError: the two were not trained at the same beta.
    """
    ours, theirs = ({row["beta"]: float(row[column]) for row in of_recipe(rows, one)} for one in (first, second))
    if ours.keys() != theirs.keys():
        raise UserError(f"{first} has beta {', '.join(ours)}, but {second} has {', '.join(theirs)}.")
    return float(np.mean([ours[beta] - theirs[beta] for beta in ours]))


def early_difference(rows: Sequence[Row], first: Recipe, second: Recipe, column: str) -> float:
    """`first` minus `second` in `column` at their snapshots within the epoch, the mean over snapshots."""
    ours, theirs = (
        {(row["beta"], row["place"]): float(row[column]) for row in of_recipe(rows, one, final=False)}
        for one in (first, second)
    )
    places = sorted(key for key in ours.keys() & theirs.keys() if key[1] != FINAL)
    if not places:
        raise UserError(f"{first} and {second} kept no snapshots of the same steps: set snapshot_epochs for both.")
    return float(np.mean([ours[place] - theirs[place] for place in places]))


def mean_of(rows: Sequence[Row], recipe: Recipe, column: str) -> float:
    """The mean of `column` over the beta of a recipe."""
    return float(np.mean([float(row[column]) for row in of_recipe(rows, recipe)]))


MEASURES: dict[str, Callable[..., float]] = {
    measure.__name__: measure for measure in (win_rate_at_equal_kl, difference_at_equal_beta, early_difference, mean_of)
}


def _curve(policies: Sequence[Row], scorer: str) -> tuple[Floats, Floats]:
    points = sorted((float(row["kl"]), float(row[f"win_rate_{scorer}"])) for row in policies)
    kl, wins = np.array(points).T
    return kl, wins
