"""What is measured of one replicate: a number from the rows of its policies, which claims compare over replicates.

A row is a policy (collect.py). A recipe is an entry of params.yaml's `runs` without beta, seed and snapshots; its
policies at several beta make a curve of win rate against KL.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from epsilon_dpo.analysis.intervals.bootstrap import Floats
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row
from epsilon_dpo.pipeline.stage.runs import FINAL, SFT

Recipe = dict[str, Any]
BUDGETS = 256  # at which two curves are compared, evenly from 0 to the largest
ONE_HAS_NONE = "at budgets below one method's smallest KL"  # whose curve is a mixture with the reference there
BOTH_HAVE = "at budgets where both methods have policies"
BEHIND = "at budgets beyond both methods' best policies"  # their best win rates, whatever the budget
TO_BEST = "from 0 to the later best policy's KL"
BOTH_TO_BEST = "from the least KL at which both have policies to the later best policy's KL"


class Part(NamedTuple):
    """One beta, or the budgets of one kind: `value` is the mean over them, `share` their share of the whole mean."""

    share: float
    value: float


@dataclass(frozen=True)
class Measured:
    """A number of one replicate.

    Attributes:
        parts: what `value` is the mean of, by name; the sum of share times value is `value`.
        grain: a value nearer to the claim's border than this says nothing: half a prompt, for win rates.
        ranges: the same mean over other ranges of budgets, by name.
    """

    value: float
    parts: Mapping[str, Part]
    grain: float = 0.0
    ranges: Mapping[str, float] = field(default_factory=dict)


def of_recipe(rows: Sequence[Row], recipe: Recipe, final: bool = True) -> list[Row]:
    """The policies of a recipe; also the snapshots unless `final`.

    Raises:
        UserError: there is none, or two of one beta.
    """
    name = json.dumps(recipe, sort_keys=True)
    found = [row for row in rows if row["recipe"] == name and (not final or row["place"] == FINAL)]
    if not found:
        raise UserError(f"no policy of {name}")
    if len({(row["beta"], row["place"]) for row in found}) < len(found):
        raise UserError(f"two policies of {name} at one beta")
    return found


def win_rate_at_equal_kl(
    rows: Sequence[Row], first: Recipe, second: Recipe, scorer: str, budgets: Sequence[float] | None = None
) -> Measured:
    """By how much `first` wins more than `second` at the same KL budget, on average over budgets.

    What a recipe wins at a budget is the best that its policies and the reference allow with at most that KL, mixtures
    included: answering each prompt with the one or the other at random has that mixture's win rate, and its KL is at
    most that mixture's, because KL is convex. So a curve is the upper concave hull of its points, flat beyond its best
    one: nobody has to spend a KL. The budgets go from 0 to the smaller one of the two largest KLs, or from the one to
    the other of `budgets`, in nats, wherever policies lie.

    The parts are three kinds of budgets: those below the least KL of one of the two, whose curve is a mixture with the
    reference there; those at which both have policies; and those beyond both best policies, where all budgets have the
    same difference, that of these two.

    Where both curves end is arbitrary, and so is how many budgets lie beyond both best policies. So the mean over two
    other ranges stands beside it: both end at the later best policy's KL, and one begins at the least KL at which both
    have policies. Where that is beyond both best policies, the mean is the difference of these two.
    """
    recipes = (first, second)
    curves = [curve(rows, recipe, scorer) for recipe in recipes]

    def gaps_from(start: float, end: float) -> tuple[Floats, Floats]:
        at = np.linspace(start, end, BUDGETS)
        ours, theirs = (hull(kl, wins, at) for kl, wins in curves)
        return at, ours - theirs

    best = max(kl[wins.argmax()] for kl, wins in curves)
    least = max(min(number(row, "kl") for row in of_recipe(rows, recipe)) for recipe in recipes)
    at, gaps = gaps_from(*(budgets or (0.0, min(kl[-1] for kl, _ in curves))))
    behind = at >= best
    kinds = {
        ONE_HAS_NONE: ~behind & (at < least),
        BOTH_HAVE: ~behind & (at >= least),
        BEHIND: behind,
    }
    parts = {name: Part(float(of.mean()), float(gaps[of].mean())) for name, of in kinds.items() if of.any()}
    starts = {TO_BEST: 0.0, BOTH_TO_BEST: least}
    ranges = {name: float(gaps_from(start, best)[1].mean()) for name, start in starts.items()}
    return Measured(float(gaps.mean()), parts, half_a_prompt(rows, first), ranges)


def curve(rows: Sequence[Row], recipe: Recipe, scorer: str) -> tuple[Floats, Floats]:
    """KL in nats and win rate of the reference and of a recipe's policies, [points], by KL."""
    policies = [*of_recipe(rows, {"method": SFT}), *of_recipe(rows, recipe)]
    points = sorted((max(0.0, number(row, "kl")), number(row, f"win_rate_{scorer}")) for row in policies)
    kl, wins = np.array(points).T
    return kl, wins


def hull(kl: Floats, wins: Floats, at: Floats) -> Floats:
    """The upper concave hull of points, [n] by KL from 0, at the budgets `at`, [g]: never falling."""
    corners: list[tuple[float, float]] = []
    for x, y in zip(kl, np.maximum.accumulate(wins), strict=True):
        while corners and (x == corners[-1][0] or (len(corners) > 1 and _below(corners[-2], corners[-1], (x, y)))):
            corners.pop()
        corners.append((float(x), float(y)))
    xs, ys = zip(*corners, strict=True)
    return np.interp(at, xs, ys)


def _below(left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether `middle` is on or below the line from `left` to `right`."""
    return (middle[1] - left[1]) * (right[0] - left[0]) <= (right[1] - left[1]) * (middle[0] - left[0])


def difference_at_equal_beta(rows: Sequence[Row], first: Recipe, second: Recipe, column: str) -> Measured:
    """Mean over the beta of `first` minus `second` in `column`.

    Raises:
        UserError: the two were not trained at the same beta.
    """
    ours, theirs = ({beta_of(row): number(row, column) for row in of_recipe(rows, one)} for one in (first, second))
    if ours.keys() != theirs.keys():
        raise UserError(f"the betas differ: {', '.join(map(str, ours))} and {', '.join(map(str, theirs))}")
    return _over_betas({beta: ours[beta] - theirs[beta] for beta in ours}, grain(rows, first, column))


def early_difference(rows: Sequence[Row], first: Recipe, second: Recipe, column: str) -> Measured:
    """`first` minus `second` in `column` at the first snapshot that both kept, the mean over the beta that did.

    Raises:
        UserError: there is no such snapshot.
    """
    ours, theirs = (_of_snapshots(rows, recipe, column) for recipe in (first, second))
    if not (both := ours.keys() & theirs.keys()):
        raise UserError("no snapshots of the same steps")
    earliest = min(epoch for epoch, _ in both)
    gaps = {beta: ours[epoch, beta] - theirs[epoch, beta] for epoch, beta in both if epoch == earliest}
    return _over_betas(gaps, grain(rows, first, column))


def _of_snapshots(rows: Sequence[Row], recipe: Recipe, column: str) -> dict[tuple[float, float | None], float]:
    """The value of each snapshot, by epoch and beta."""
    kept = (row for row in of_recipe(rows, recipe, final=False) if row["place"] != FINAL)
    return {(float(row["epoch"]), beta_of(row)): number(row, column) for row in kept}


def mean_of(
    rows: Sequence[Row], recipe: Recipe, column: str, betas: Sequence[float] | None = None, minus: str | None = None
) -> Measured:
    """The mean of `column`, or of `column` minus the column `minus`, over the beta of a recipe, or over `betas`.

    Raises:
        UserError: one of `betas` has no policy.
    """
    policies = {beta_of(row): row for row in of_recipe(rows, recipe)}
    if lacking := sorted(set(betas or []) - {beta for beta in policies if beta is not None}):
        raise UserError(f"no policy at β {lacking[0]}")
    values = {beta: number(policies[beta], column) for beta in (betas or policies)}
    if minus is not None:
        values = {beta: value - number(policies[beta], minus) for beta, value in values.items()}
    return _over_betas(values, grain(rows, recipe, column))


def _over_betas(values: Mapping[float | None, float], smallest: float) -> Measured:
    ordered = sorted(values.items(), key=lambda item: item[0] or 0.0)
    parts = {f"at β {beta}": Part(1 / len(ordered), value) for beta, value in ordered}
    return Measured(float(np.mean([value for _, value in ordered])), parts, smallest)


def grain(rows: Sequence[Row], recipe: Recipe, column: str) -> float:
    """Of Measured, for a value of `column`."""
    return half_a_prompt(rows, recipe) if column.startswith("win_rate") else 0.0


def half_a_prompt(rows: Sequence[Row], recipe: Recipe) -> float:
    """What a win rate changes by where one prompt's answer ties that won or lost, if each prompt has one answer."""
    return 0.5 / min(number(row, "prompts") for row in of_recipe(rows, recipe))


def beta_of(row: Row) -> float | None:
    """As a number: 1 and 1.0 are one beta."""
    return float(row["beta"]) if row["beta"] not in ("", None) else None


def number(row: Row, column: str) -> float:
    """
    Raises:
        UserError: this policy has no such value: no true reward, or no pair in one of the groups; or there is no such
            column.
    """
    if column not in row:
        raise UserError(f"policies have no column {column}; there are {', '.join(row)}")
    if row[column] in ("", None) or not math.isfinite(float(row[column])):
        raise UserError(f"{row['run']} has no {column}")
    return float(row[column])


MEASURES: dict[str, Callable[..., Measured]] = {
    measure.__name__: measure for measure in (win_rate_at_equal_kl, difference_at_equal_beta, early_difference, mean_of)
}
