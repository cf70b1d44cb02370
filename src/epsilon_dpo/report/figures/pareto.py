"""The paper's Figure 5: win rate against KL, a point per policy and a frontier per family of runs."""

from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from epsilon_dpo.analysis.intervals.bootstrap import Floats
from epsilon_dpo.report.figures.dominance import dominated
from epsilon_dpo.report.figures.frontier import Frontier, Reference, frontier
from epsilon_dpo.report.figures.points import ENDS, Point, Row

KL_COLUMNS = tuple(f"kl{end}" for end in ENDS)
RATE_COLUMNS = tuple(f"win_rate{end}" for end in ENDS)
POINTS = ("run", "family", "beta", "scorer", *KL_COLUMNS, *RATE_COLUMNS, "n", "dominated")
STAIRCASES = ("scorer", "family", "kl", *RATE_COLUMNS)
HYPERVOLUMES = (
    "scorer",
    "family",
    *(f"hypervolume{end}" for end in ENDS),
    "reference_kl",
    "reference_win_rate",
)
DRAWS = 10_000  # of what all intervals of a frontier must hold together
GRID = 201  # KLs at which a staircase is stated, beside those of the policies


@dataclass(frozen=True)
class Pareto:
    """What the figure shows.

    Attributes:
        points: one row per policy and scorer, of POINTS: KL in nats per answer, n (prompts), dominated (another policy
            wins more at less KL, as far as the data show that: dominance.py).
        frontiers: per scorer and family of two values of beta or more.
        references: per scorer, the corner of the hypervolume.
    """

    points: list[Row]
    frontiers: dict[str, dict[str, Frontier]]
    references: dict[str, Reference]

    @property
    def averages_seeds(self) -> bool:
        """Whether a frontier has a point that is the mean of several policies."""
        swept = {family for found in self.frontiers.values() for family in found}
        rows = [(row["scorer"], row["family"], row["beta"]) for row in self.points if row["family"] in swept]
        return len(set(rows)) < len(rows)

    def staircases(self) -> list[Row]:
        """One row per scorer, family and KL: what the family attains there."""
        return [
            {"scorer": scorer, "family": family, "kl": kl, "win_rate": rate, "win_rate_low": low, "win_rate_high": high}
            for scorer, found in self.frontiers.items()
            for family, one in found.items()
            for kl, rate, low, high in zip(
                one.kl.tolist(), one.win_rate.tolist(), one.low.tolist(), one.high.tolist(), strict=True
            )
        ]

    def hypervolumes(self) -> list[Row]:
        """One row per scorer and family, in nats times win rate, with the corner it is measured from."""
        return [
            {"scorer": scorer, "family": family}
            | one.hypervolume.columns("hypervolume")
            | {"reference_kl": self.references[scorer].kl, "reference_win_rate": self.references[scorer].win_rate}
            for scorer, found in self.frontiers.items()
            for family, one in found.items()
        ]


def pareto(
    points: list[Point],
    family_of: dict[str, str],
    betas: dict[str, float | None],
    sft: dict[str, float],
    confidence: float,
    seed: int,
) -> Pareto:
    """Points, frontiers and hypervolumes.

    The hypervolume is measured from the SFT policy's win rate up, and from KL 0 to the largest KL that all families
    with a frontier reach, so that none is charged for a range in which it has no policy.

    Args:
        points: final policies.
        sft: per scorer, the SFT policy's win rate over the chosen answers.
    """
    rows = []
    for scorer in sft:
        pointless = dominated(
            [point.kl_by_prompt for point in points],
            [point.wins_by_prompt[scorer] for point in points],
            points[0].answers,
            confidence,
        )
        rows += [
            {"run": point.run, "family": family_of[point.run], "beta": betas[point.run], "scorer": scorer}
            | point.kl.columns("kl")
            | point.win_rate[scorer].columns("win_rate")
            | {"n": len(point.kl_by_prompt), "dominated": bool(is_dominated)}
            for point, is_dominated in zip(points, pointless, strict=True)
        ]
    sweeps = _sweeps(points, family_of, betas)
    if not sweeps:
        return Pareto(rows, {}, {})
    spanned = min(max(step.kl for step in sweep) for sweep in sweeps.values())
    references = {scorer: Reference(max(spanned, 0.0), floor) for scorer, floor in sft.items()}
    grid = _grid([point.kl.value for point in points] + [step.kl for step in chain.from_iterable(sweeps.values())])
    frontiers = {
        scorer: {
            family: frontier(
                [step.kl_by_prompt for step in sweep],
                [step.wins_by_prompt[scorer] for step in sweep],
                points[0].answers,
                grid,
                reference,
                confidence,
                DRAWS,
                seed,
            )
            for family, sweep in sweeps.items()
        }
        for scorer, reference in references.items()
    }
    return Pareto(rows, frontiers, references)


def _grid(kls: list[float]) -> Floats:
    """KLs from 0 to beyond the largest, as close on a scale of roots, where the policies are, and those of `kls`."""
    return np.union1d(1.05 * max(kls) * np.linspace(0.0, 1.0, GRID) ** 2, np.maximum(kls, 0.0))


class _Step(NamedTuple):
    """A value of beta: of its policies, which differ by their seeds, the means. The best of them is luck, and no choice
    that a method offers."""

    kl: float
    kl_by_prompt: Floats
    wins_by_prompt: dict[str, Floats]


def _sweeps(points: list[Point], family_of: dict[str, str], betas: dict[str, float | None]) -> dict[str, list[_Step]]:
    """The families with at least two values of beta: of one there is no frontier to speak of."""
    found: dict[str, dict[float | None, list[Point]]] = {}
    for point in points:
        found.setdefault(family_of[point.run], {}).setdefault(betas[point.run], []).append(point)
    return {family: list(map(_step, members.values())) for family, members in found.items() if len(members) > 1}


def _step(seeds: list[Point]) -> _Step:
    wins = {s: np.mean([point.wins_by_prompt[s] for point in seeds], 0) for s in seeds[0].wins_by_prompt}
    kl = float(np.mean([point.kl.value for point in seeds]))
    return _Step(kl, np.mean([point.kl_by_prompt for point in seeds], 0), wins)
