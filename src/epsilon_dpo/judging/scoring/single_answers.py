"""What single answers are worth: means over a policy's answers, and over the best of several of the reference's."""

from collections.abc import Sequence

from epsilon_dpo.analysis.intervals.rates import Estimate
from epsilon_dpo.judging.scoring.intervals import Intervals
from epsilon_dpo.pipeline.stage.files import Row

POSITIVE = 0.5  # a probability above it is a positive answer


def answers(records: Sequence[Row], side: str, name: str, intervals: Intervals) -> dict[str, float]:
    """Of one side's answers: `mean_chars/<name>`, `mean_judge_tokens/<name>` (characters where the judge has no
    tokenizer), `empty_share/<name>`; with its interval what `values` has of them."""
    means = {"mean_chars": "chars", "mean_judge_tokens": "tokens", "empty_share": "empty"}
    found = {
        f"{m}/{name}": sum(record[f"{key}_{side}"] for record in records) / len(records) for m, key in means.items()
    }
    return found | values(records, side, name, intervals)


def values(records: Sequence[Row], side: str, name: str, intervals: Intervals) -> dict[str, float]:
    """With their intervals over prompts: `judge_score/<name>` by a judge of single answers, by a classifier also
    `positive_probability/<name>` (the mean) and `positive_share/<name>` (of answers above 1/2), and, with a truth,
    `true_reward/<name>`."""
    found: dict[str, float] = {}
    if f"score_{side}" in records[0]:
        found |= _mean(records, f"score_{side}", intervals).named(f"judge_score/{name}")
    if f"probability_{side}" in records[0]:
        found |= _mean(records, f"probability_{side}", intervals).named(f"positive_probability/{name}")
        positive = [float(record[f"probability_{side}"] > POSITIVE) for record in records]
        found |= intervals.rate(positive, records).named(f"positive_share/{name}")
    if f"true_{side}" in records[0]:
        found |= _mean(records, f"true_{side}", intervals).named(f"true_reward/{name}")
    return found


def best_of(records: Sequence[Row], intervals: Intervals) -> dict[str, float]:
    """`values` at `<name> = best_of_<n>`: of each prompt's n answers the one that the judge scores highest (the first
    of equals): what the judge reaches by choosing, without any training.

    Nothing where a prompt has one answer, prompts have unequally many, or the judge gives no scores.
    """
    if "score_a" not in records[0]:
        return {}
    by_prompt: dict[str, list[Row]] = {}
    for record in records:
        by_prompt.setdefault(record["prompt_id"], []).append(record)
    counts = {len(own) for own in by_prompt.values()}
    if len(counts) > 1 or counts == {1}:
        return {}
    best = [max(own, key=lambda record: record["score_a"]) for own in by_prompt.values()]
    return values(best, "a", f"best_of_{counts.pop()}", intervals)


def _mean(records: Sequence[Row], key: str, intervals: Intervals) -> Estimate:
    return intervals.mean([record[key] for record in records], records)
