"""Who wins: judged pairs as records, and the rates that they add up to.

Every pair is judged in both orders (judging/judges/interface.py). A logit above TIE is a win of answer a
(1), one below -TIE a loss (0), and anything between a tie (1/2), which LLM-Blender's code counts as a loss. Where the
data's true reward is known, the same pairs are also decided by it, so that the judge itself can be judged.
"""

from collections.abc import Callable
from pathlib import Path

from scipy.special import expit

from epsilon_dpo.data.generated.truth import true_reward
from epsilon_dpo.data.prompts.prompt_ids import prompt_id
from epsilon_dpo.judging.judges.interface import Judge, Verdict
from epsilon_dpo.judging.scoring.calibration import calibration
from epsilon_dpo.judging.scoring.comparisons import Comparison
from epsilon_dpo.judging.scoring.intervals import Intervals
from epsilon_dpo.judging.scoring.length import length_controlled
from epsilon_dpo.judging.scoring.single_answers import answers, best_of
from epsilon_dpo.pipeline.stage.files import Row, read_json
from epsilon_dpo.pipeline.stage.runs import CHOSEN, RUN, SFT

TIE = 1e-6  # |logit| up to which two answers are equal: above padding's rounding, below any preference
OF_SINGLE_ANSWERS = ("score_a", "score_b", "probability_a", "probability_b")  # from judges that have them
TRUNCATIONS = ("trunc_source", "trunc_a", "trunc_b")

Truth = Callable[[list[dict[str, str]], str], float]


def known_truth(dataset: Path) -> Truth | None:
    """The true reward of the data, if its dataset.json says that there is one; None for data from people."""
    if not read_json(dataset)["true_reward"]:
        return None
    return lambda prompt, answer: true_reward(prompt[-1]["content"], answer)


def judge_comparisons(judge: Judge, comparisons: list[Comparison], truth: Truth | None) -> list[Row]:
    """One record per comparison, in the order given: the keys of `_record` and, with a truth, of `_true_record`."""
    verdicts = judge.compare([comparison.question for comparison in comparisons])
    return [
        _record(comparison, verdict) | (_true_record(comparison, truth) if truth else {})
        for comparison, verdict in zip(comparisons, verdicts, strict=True)
    ]


def refuse_preference_among_equals(records: list[Row]) -> None:
    """The control that needs no truth: two identical answers tie.

    Raises:
        RuntimeError: the judge prefers one of two identical answers: the two orders were not judged alike.
    """
    preferred = [record["id"] for record in records if record["identical"] and record["win"] != 0.5]
    if preferred:
        raise RuntimeError(
            f"the judge prefers one of two identical answers in {len(preferred)} pairs, first {preferred[0]}"
        )


def win(logit: float) -> float:
    """1, 1/2 or 0 for answer a."""
    return 0.5 if abs(logit) <= TIE else float(logit > 0.0)


def summary(records: list[Row], intervals: Intervals, at: str = "") -> dict[str, float]:
    """The metrics of one opponent's records; `at` is appended to each name, before `_low`, `_high` and `_n`.

    With an interval each:
    - `win_rate`: ties a half; `consistent_win_rate`: a pair whose two orders disagree is a tie;
    - `lc_win_rate`: at equal length (length.py, with `length_slope`); `similar_length_win_rate`: of the pairs whose
      lengths differ by at most a fifth; `untruncated_win_rate`: of the answers a that max_new_tokens did not cut, if
      some were cut (b may be cut);
    - `flip_rate`: how often swapping two different answers, neither refused, makes the other one win;
    - with a truth `true_win_rate`, and `truth_agreement`, the judge's accuracy (ties half) on the pairs that the truth
      decides; the agreement on all of them corrected for chance, `truth_kappa` and `truth_alpha` (agreement.py).
    Without: `soft_win_rate`, the mean of sigmoid(logit / 2); `consistency`, the share of the pairs that `flip_rate`
    counts whose two orders name the same winner, and their number as its `_n`; `position_bias`, the mean of
    (f_ab + f_ba) / 2, positive if the first place helps; `tie_share`, `identical_share`; `truncated_share` of pairs
    that the judge did not see entirely; `refused_share`.

    Raises:
        ValueError: there is no record.
    """
    n = len(records)
    wins = [record["win"] for record in records]
    decided = [record for record in records if record["win"] != 0.5]
    both_orders = [record["win"] if record["consistent"] else 0.5 for record in records]
    found = intervals.rate(wins, records).named(f"win_rate{at}")
    found |= intervals.rate(both_orders, records).named(f"consistent_win_rate{at}")
    found |= _at_equal_length(records, intervals, at) | _untruncated(records, intervals, at)
    found |= _both_orders(records, intervals, at)
    found |= {
        f"soft_win_rate{at}": float(expit([record["logit"] / 2.0 for record in records]).mean()),
        f"position_bias{at}": sum(record["f_ab"] + record["f_ba"] for record in records) / (2 * n),
        f"tie_share{at}": 1.0 - len(decided) / n,
        f"identical_share{at}": sum(record["identical"] for record in records) / n,
        f"truncated_share{at}": sum(any(record[key] for key in TRUNCATIONS) for record in records) / n,
        f"refused_share{at}": sum(record["refused"] for record in records) / n,
    }
    return found | (_true_summary(records, intervals, at) if "true_win" in records[0] else {})


def label_accuracy(records: list[Row], intervals: Intervals) -> dict[str, float]:
    """`summary` of chosen against rejected, where the judge's win is a right answer: its rates are accuracies.

    And `label_kappa`, `label_alpha`, its agreement with the labels beyond chance, and its `calibration` by them.
    """
    found = summary(records, intervals) | intervals.agreement("label", [1.0] * len(records), records, "")
    found = {name if name.startswith("true") else name.replace("win_rate", "accuracy"): x for name, x in found.items()}
    return found | calibration(records, intervals)


def by_opponent(records: list[Row], intervals: Intervals) -> dict[str, float]:
    """`summary` of each opponent's records, at `/<opponent>` for a run and `/<answer>_vs_<opponent>` for a control.

    And `answers` of both sides, and `best_of` the reference's.
    """
    found: dict[str, float] = {}
    for answer, opponent in dict.fromkeys((record["answer"], record["opponent"]) for record in records):
        own = [record for record in records if (record["answer"], record["opponent"]) == (answer, opponent)]
        found |= summary(own, intervals, f"/{opponent}" if answer == RUN else f"/{answer}_vs_{opponent}")
        found |= answers(own, "a", answer, intervals) | answers(own, "b", opponent, intervals)
        if (answer, opponent) == (SFT, CHOSEN):
            found |= best_of(own, intervals)
    return found


def _record(comparison: Comparison, verdict: Verdict) -> Row:
    prompt, a, b = comparison.question
    of_single = {name: getattr(verdict, name) for name in OF_SINGLE_ANSWERS if getattr(verdict, name) is not None}
    return of_single | {
        "id": comparison.id,
        "prompt_id": prompt_id(prompt),
        "answer": comparison.answer,
        "opponent": comparison.opponent,
        "f_ab": verdict.f_ab,
        "f_ba": verdict.f_ba,
        "logit": verdict.logit,
        "win": win(verdict.logit),
        "consistent": verdict.f_ab * verdict.f_ba < 0.0,
        "chars_a": len(a.strip()),
        "chars_b": len(b.strip()),
        "tokens_a": verdict.len_a,
        "tokens_b": verdict.len_b,
        "trunc_source": verdict.trunc_source,
        "trunc_a": verdict.trunc_a,
        "trunc_b": verdict.trunc_b,
        "refused": verdict.refused,
        "empty_a": not a.strip(),
        "empty_b": not b.strip(),
        "identical": a.strip() == b.strip(),
        "finish_reason": comparison.finish_reason,
    }


def _true_record(comparison: Comparison, truth: Truth) -> Row:
    prompt, *texts = comparison.question
    a, b = (truth(prompt, text) for text in texts)
    return {"true_a": a, "true_b": b, "true_win": win(a - b)}


def _at_equal_length(records: list[Row], intervals: Intervals, at: str) -> dict[str, float]:
    """Nothing where the records are too few, or all lengths differ alike: then length has no effect of its own."""
    names = "win", "tokens_a", "tokens_b", "prompt_id"
    wins, a, b, prompts = ([record[name] for record in records] for name in names)
    found = length_controlled(wins, a, b, prompts, intervals.confidence)
    if found is None:
        return {}
    similar = {} if found.similar is None else found.similar.named(f"similar_length_win_rate{at}")
    return found.win_rate.named(f"lc_win_rate{at}") | {f"length_slope{at}": found.slope} | similar


def _untruncated(records: list[Row], intervals: Intervals, at: str) -> dict[str, float]:
    untruncated = [record for record in records if record["finish_reason"] != "length"]
    if not untruncated or len(untruncated) == len(records):
        return {}
    return intervals.rate([record["win"] for record in untruncated], untruncated).named(f"untruncated_win_rate{at}")


def _both_orders(records: list[Row], intervals: Intervals, at: str) -> dict[str, float]:
    """`flip_rate` and `consistency`; nothing where all pairs are identical or refused.

    A judge that prefers the first place (or the second) in both orders has named both answers: a flip, and for one that
    answers by a letter alone also a tie, so that among decided pairs no flip of its could be found.
    """
    judged = [record for record in records if not (record["identical"] or record["refused"])]
    if not judged:
        return {}
    flips = [float(record["f_ab"] * record["f_ba"] > 0.0) for record in judged]
    same = sum(record["consistent"] for record in judged) / len(judged)
    found = intervals.rate(flips, judged).named(f"flip_rate{at}")
    return found | {f"consistency{at}": same, f"consistency{at}_n": len(judged)}


def _true_summary(records: list[Row], intervals: Intervals, at: str) -> dict[str, float]:
    truth = [record["true_win"] for record in records]
    found = intervals.rate(truth, records).named(f"true_win_rate{at}") | intervals.agreement(
        "truth", truth, records, at
    )
    if decided := [record for record in records if record["true_win"] != 0.5]:
        right = [record["win"] if record["true_win"] == 1.0 else 1.0 - record["win"] for record in decided]
        found |= intervals.rate(right, decided).named(f"truth_agreement{at}")
    return found
