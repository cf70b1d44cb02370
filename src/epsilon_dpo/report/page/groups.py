"""Runs that differ by nothing but the seed of their training: what a method does, beyond what one training did."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from epsilon_dpo.analysis.intervals.bootstrap import Floats
from epsilon_dpo.analysis.intervals.rates import Estimate
from epsilon_dpo.analysis.intervals.win_rates import win_rate
from epsilon_dpo.report.page.results import Results, Row, RunResult
from epsilon_dpo.report.page.tables import OPPONENTS
from epsilon_dpo.report.page.variance import split_variance

NOT_THE_METHOD = ("seed", "snapshot_epochs")  # keys that make another training, or none
RATES = {"win": "win_rate", "true_win": "true_win_rate"}  # a record's field, and the rate of it


@dataclass(frozen=True)
class Group:
    """The runs of equal config, called by the first one's name."""

    name: str
    runs: list[RunResult]

    @property
    def label(self) -> str:
        """`dpo, 3 seeds`."""
        return self.name if len(self.runs) == 1 else f"{self.name}, {len(self.runs)} seeds"

    def wins(self, opponent: str, field: str) -> Floats:
        """[seeds, prompts, answers] of a record's `win` or `true_win`."""
        return self._design(opponent, lambda record: [record[field]])[..., 0]

    def over_prompts(self, opponent: str, field: str, confidence: float) -> Estimate:
        """The mean of a record's `win` or `true_win` over seeds, with its interval over prompts alone."""
        records = [record for run in self.runs for record in run.verdicts(opponent).values()]
        return win_rate([record[field] for record in records], [record["prompt_id"] for record in records], confidence)

    def judgements(self, opponent: str) -> Floats:
        """[seeds, prompts, answers, 2]: whether the answer wins by the verdict of each order alone, ties a half.

        Its mean is the win rate that counts a pair as a tie if its orders disagree; an order that is a tie by itself
        counts a half.
        """
        return self._design(
            opponent, lambda record: [(1.0 + np.sign(f)) / 2.0 for f in (record["f_ab"], -record["f_ba"])]
        )

    def _design(self, opponent: str, values: Any) -> Floats:
        """[seeds, prompts, answers, judgements], prompts in the order of their ids, as `balanced` makes it."""
        seeds = []
        for run in self.runs:
            by_prompt: dict[str, list[list[float]]] = {}
            for record in run.verdicts(opponent).values():
                by_prompt.setdefault(record["prompt_id"], []).append(values(record))
            seeds.append(balanced([np.array(by_prompt[prompt], float) for prompt in sorted(by_prompt)]))
        return np.stack(seeds)


def balanced(prompts: list[Floats]) -> Floats:
    """[prompts, c, judgements] of answers, of which a prompt that several rows of the data share has more than others.

    c is the largest number that divides how many each prompt has: `samples_per_prompt`, unless all prompts are shared.
    A prompt's nth number then stands for the nth answer of each of its rows, so that the mean over prompts is that over
    answers, and the spread between prompts its cluster-robust one: `per_prompt` of analysis/intervals/rates.py, for
    each n. Where every prompt has c answers, these are the answers.

    Args:
        prompts: of each [answers, judgements], row by row.
    """
    sizes = np.array([len(answers) for answers in prompts], float)
    c = math.gcd(*map(len, prompts))
    totals = np.stack([answers.reshape(-1, c, answers.shape[1]).sum(0) for answers in prompts])
    share = (sizes / sizes.mean())[:, None, None]
    mean = totals.sum((0, 1)) / sizes.sum()
    return totals / (sizes.mean() / c) + mean * (1.0 - share)


def groups(runs: list[RunResult]) -> list[Group]:
    """In the order of their first runs; a number that is null is one that is not stated, and 1 is 1.0."""
    found: list[tuple[dict[str, Any], list[RunResult]]] = []
    for run in runs:
        config = {k: v for k, v in run.config.items() if k not in NOT_THE_METHOD and v is not None}
        alike = next((members for known, members in found if known == config), None)
        if alike is None:
            found.append((config, [run]))
        else:
            alike.append(run)
    return [Group(members[0].name, members) for _, members in found]


def several_seeds(results: Results) -> list[Group]:
    """The groups that can speak of a method."""
    return [group for group in groups(results.runs) if len(group.runs) > 1]


def group_rates(results: Results) -> list[Row]:
    """The rows of groups.csv: the mean win rates of each group with several seeds, and the runs that it is of.

    The intervals are over seeds and prompts: they speak of another training on other prompts.
    """
    return [
        {"group": group.name, "seeds": len(group.runs), "runs": " ".join(run.name for run in group.runs)}
        | {name: value for opponent in OPPONENTS for name, value in _rates(results, group, opponent).items()}
        for group in several_seeds(results)
    ]


def _rates(results: Results, group: Group, opponent: str) -> Row:
    found: Row = {}
    for field, rate in RATES.items():
        if field == "win" or results.has_truth:
            split = split_variance(group.wins(opponent, field)[..., None])
            low, high = split.interval(results.confidence, group.over_prompts(opponent, field, results.confidence))
            name = f"{rate}/{opponent}"
            found |= {name: split.win_rate, f"{name}_low": max(0.0, low), f"{name}_high": min(1.0, high)}
    return found
