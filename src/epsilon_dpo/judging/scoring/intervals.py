"""How every interval here is made: over prompts, which may have several records each."""

from collections.abc import Sequence
from dataclasses import dataclass

from epsilon_dpo.analysis.intervals.bootstrap import cluster_bootstrap
from epsilon_dpo.analysis.intervals.rates import Estimate
from epsilon_dpo.analysis.intervals.win_rates import win_rate
from epsilon_dpo.judging.scoring.agreement import agreement
from epsilon_dpo.pipeline.stage.files import Row
from epsilon_dpo.pipeline.stage.runs import REJECTED

DRAWS = 10_000  # resamples of an interval: its ends then move by less than a tenth of their width between two seeds


@dataclass(frozen=True)
class Intervals:
    """Of records as scoring.py makes them.

    Attributes:
        confidence: coverage, in (0, 1).
        seed: RNG seed of the resampling, where there is any.
    """

    confidence: float
    seed: int

    def rate(self, wins: Sequence[float], records: Sequence[Row]) -> Estimate:
        """The mean of `wins`, one of each record."""
        prompts = [record["prompt_id"] for record in records]
        return win_rate(wins, prompts, self.confidence)

    def agreement(self, rater: str, other: Sequence[float], records: Sequence[Row], at: str) -> dict[str, float]:
        """How far the judge agrees with `rater`, whose verdicts are `other`, one of each record; nothing where there is
        nothing to agree on. Which answer is `rejected` is the label's verdict and no party of its own."""
        prompts, wins = [record["prompt_id"] for record in records], [record["win"] for record in records]
        labels = any(record.get("opponent") == REJECTED for record in records)
        found = agreement(wins, other, prompts, self.confidence, DRAWS, self.seed, sides_are_arbitrary=labels)
        return {} if found is None else found.named(rater, at)

    def mean(self, values: Sequence[float], records: Sequence[Row]) -> Estimate:
        """The mean of real values, one of each record."""
        prompts = [record["prompt_id"] for record in records]
        return cluster_bootstrap(values, prompts, self.confidence, DRAWS, self.seed)
