"""The judge's controls on one scale, and the worst of them: what qualifies every judged rate of the page.

A control is a rate whose right value is known. Its `failure` is how far the judge is on the way from there to a coin: 0
at the right value, 1 where a coin would do as well, more where a coin would do better.
"""

from typing import Any

from epsilon_dpo.report.page.results import Results, Row
from epsilon_dpo.report.style.signs import percent

COIN = 0.5


def controls(results: Results) -> list[Row]:
    """From the worst to the best: `control`, `rate` (the judge's), `right` (value), `failure` and what it `says`.

    What can tell a judge from a coin neither way (its right value is about that of a coin) is left out.
    """
    found = [*_of_labels(results.judged, results.has_preferences), *_of_policies(results.controls)]
    if results.has_classifier:  # it does not ask whether an answer fits its prompt
        found = [row for row in found if row["control"] != "other prompts"]
    if "true_win_rate" not in results.judged and len(found) > 1:
        # Nobody knows how often a perfect judge agrees with noisy labels: they would nearly always be the worst.
        found = [row for row in found if row["control"] != "labels"]
    return sorted(found, key=lambda row: -row["failure"])


def qualification(results: Results) -> list[str]:
    """The sentence that stands in the headline; none where nothing was controlled."""
    said = "Read every judged rate with the judge's worst control in mind (a coin would score 50 %): {says}."
    return [said.format(**row) for row in controls(results)[:1]]


def _of_labels(judged: dict[str, Any], of_pairs: bool) -> list[Row]:
    """On the evaluation pairs. Labels are noisy: no judge agrees with them more often than they with the truth.

    Args:
        of_pairs: whether those are preferences; else a classifier's texts alone have labels.
    """
    found = []
    if "classifier_accuracy" in judged:
        rate = judged["classifier_accuracy"]
        found += _control("texts", rate, 1.0, f"it finds the label of {percent(rate)} of the held-out texts")
    if "accuracy" in judged and of_pairs:
        limit = judged.get("true_win_rate", 1.0)
        says = f"it agrees with the labels of {percent(judged['accuracy'])} of the evaluation pairs"
        if "true_win_rate" in judged:
            says += f", the true reward of {percent(limit)}"
        found += _control("labels", judged["accuracy"], max(limit, judged["accuracy"]), says)
    if "truth_agreement" in judged:
        rate = judged["truth_agreement"]
        says = f"it agrees with the true reward on {percent(rate)} of the evaluation pairs that the true reward decides"
        found += _control("truth", rate, 1.0, says)
    if "flip_rate" in judged:
        rate = judged["flip_rate"]
        found += _control("order", rate, 0.0, f"swapping the two answers flips {percent(rate)} of its verdicts")
    return found


def _of_policies(judged: dict[str, Any]) -> list[Row]:
    """On the prompts of the comparison."""
    found = []
    if "truth_agreement/sft_vs_chosen" in judged:
        rate = judged["truth_agreement/sft_vs_chosen"]
        says = f"it agrees with the true reward on {percent(rate)} of SFT's answers against the chosen ones"
        found += _control("truth of answers", rate, 1.0, says)
    if "win_rate/shuffled_vs_chosen" in judged:
        rate = judged["win_rate/shuffled_vs_chosen"]
        says = f"it lets answers to other prompts win against the chosen ones in {percent(rate)} of cases"
        right = judged.get("true_win_rate/shuffled_vs_chosen", 0.0)
        if "true_win_rate/shuffled_vs_chosen" in judged:
            says += f" (by the true reward in {percent(right)})"
        found += _control("other prompts", rate, right, says)
    return found


def _control(name: str, rate: float, right: float, says: str) -> list[Row]:
    if abs(COIN - right) < 0.05:
        return []
    failure = max(0.0, (rate - right) / (COIN - right))
    return [{"control": name, "rate": rate, "right": right, "failure": failure, "says": says}]
