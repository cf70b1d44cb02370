"""Where the uncertainty of a group's win rate comes from: trainings, prompts, sampling, judging.

Its variance, and what of it is training's, are those of report/page/variance.py. That takes the answers of different
seeds for independent, but all runs answer with the same random numbers (sampling.py), are compared with the same
answers of SFT, and equal answers are judged alike. What seeds share, more seeds do not average out. So sampling and
judging are taken from the mean over seeds of each prompt's nth answer, where both parts are left: the common one, and
each seed's own over their number. Components again come from equating mean squares with their expectations (Searle,
Casella and McCulloch, Variance Components (1992), chapter 4), those below 0 set to 0.

By the judge, the verdict of each order counts by itself, so that the judge's own noise shows: the win rate is then that
of `consistent_win_rate`, the position bias is no noise, and a judge that scores single answers, whose orders never
disagree, has none. The true reward has none either.
"""

from dataclasses import dataclass
from typing import NamedTuple

from epsilon_dpo.analysis.intervals.bootstrap import Floats
from epsilon_dpo.report.page.groups import Group, groups
from epsilon_dpo.report.page.results import Results, Row
from epsilon_dpo.report.page.statements import SCORERS
from epsilon_dpo.report.page.tables import OPPONENTS
from epsilon_dpo.report.page.variance import split_variance

SOURCES = ("training", "prompt", "interaction", "sampling", "judging")  # interaction: trainings on single prompts


class Part(NamedTuple):
    """What a source, or several where the design cannot tell them apart, adds to the variance of a win rate."""

    sources: tuple[str, ...]
    variance: float


@dataclass(frozen=True)
class Split:
    """A group's win rate by one scorer against one opponent, and what its variance consists of."""

    group: Group
    opponent: str
    scorer: str
    win_rate: float
    parts: list[Part]

    @property
    def variance(self) -> float:
        return sum(part.variance for part in self.parts)

    @property
    def shares(self) -> list[tuple[float | None, int]]:
        """A part's share for each of SOURCES, None where there is no such part, and how many sources it is for."""
        row: list[tuple[float | None, int]] = []
        at = 0
        for part in self.parts:
            first, last = SOURCES.index(part.sources[0]), SOURCES.index(part.sources[-1])
            row += [(None, 1)] * (first - at) + [(part.variance / (self.variance or 1.0), last - first + 1)]
            at = last + 1
        return row + [(None, 1)] * (len(SOURCES) - at)


def variance(found: list[Split]) -> list[Row]:
    """The rows of variance.csv: one per group, opponent, scorer and part of the variance of that win rate."""
    return [
        {
            "group": split.group.name,
            "seeds": len(split.group.runs),
            "opponent": split.opponent,
            "scorer": split.scorer,
            "win_rate": split.win_rate,
            "source": " and ".join(part.sources),
            "variance": part.variance,
            "share": part.variance / (split.variance or 1.0),
        }
        for split in found
        for part in split.parts
    ]


def splits(results: Results) -> list[Split]:
    """One opponent after the other, each group by each scorer."""
    found = []
    for opponent in OPPONENTS:
        for group in groups(results.runs):
            judged = group.judgements(opponent)
            found.append(Split(group, opponent, SCORERS["win"], float(judged.mean()), parts(judged)))
            if results.has_truth:
                decided = group.wins(opponent, "true_win")[..., None]
                found.append(Split(group, opponent, SCORERS["true_win"], float(decided.mean()), parts(decided)))
    return found


def parts(wins: Floats) -> list[Part]:
    """In the order of SOURCES.

    One answer to a prompt tells sampling neither from prompts nor from what a training does on single ones. With one
    seed the variance is that of this policy's win rate: nothing of it is training's, and what it does on single prompts
    is prompts'.

    Args:
        wins: [seeds, prompts, answers, judgements].
    """
    a, b, c, o = wins.shape
    split = split_variance(wins)
    common = wins.mean(0)  # [prompts, answers, judgements]
    training = split.training.of_win_rate if split.training else 0.0
    left = max(0.0, split.standard_error**2 - training)  # each part is of what the ones before it leave
    judging = min(left, _judging(common)) if o > 1 else 0.0
    rest = left - judging
    found = [Part(("training",), training)] if a > 1 else []
    if c == 1:
        found.append(Part(("prompt", "interaction", "sampling") if a > 1 else ("prompt", "sampling"), rest))
    else:
        sampling = max(0.0, float(common.mean(2).var(1, ddof=1).mean()) / (b * c) - judging)
        sampling = min(rest, sampling)
        interaction = min(rest - sampling, _interaction(wins.mean(3))) if a > 1 else 0.0
        found.append(Part(("prompt",), rest - sampling - interaction))
        found += [Part(("interaction",), interaction)] if a > 1 else []
        found.append(Part(("sampling",), sampling))
    return found + ([Part(("judging",), judging)] if o > 1 else [])


def _judging(common: Floats) -> float:
    """What it adds to the variance of the win rate, the order's effect excluded; [prompts, answers, judgements]."""
    b, c, o = common.shape
    residuals = common - common.mean(2, keepdims=True) - common.mean((0, 1)) + common.mean()
    return float((residuals**2).sum()) / ((b * c - 1) * (o - 1)) / common.size


def _interaction(answers: Floats) -> float:
    """What it adds to the variance of the win rate; [seeds, prompts, answers]."""
    a, b, c = answers.shape
    residuals = answers - answers.mean(0)
    cells = residuals.mean(2)
    by_prompt = cells - cells.mean(1, keepdims=True)
    by_answer = residuals - cells[..., None]
    mean_square = c * float((by_prompt**2).sum()) / ((a - 1) * (b - 1))
    own = float((by_answer**2).sum()) / ((a - 1) * b * (c - 1))
    return max(0.0, mean_square - own) / (a * b * c)
