"""Preference pairs from the reference's own answers: sampled, ranked by the judge, paired by their scores.

As SimPO's on-policy sets (Meng et al. 2024, arXiv 2405.14734: 5 answers at temperature 0.8, best against worst), with
what their scripts get wrong put right: answers are joined by prompt and not by position, duplicates are removed before
they are ranked, the order is that of the samples and not of a file system, and every score is kept.

The judge that ranks here should not be the only one that scores: a policy is then trained on its evaluator's taste.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any, Literal

Row = dict[str, Any]
Choice = Literal["best_worst", "best_against_rest", "all"]


def one_row_per_prompt(rows: list[Row], prompt_ids: list[str], limit: int | None) -> list[Row]:
    """The first row of each prompt; of at most `limit` prompts, those with the smallest id.

    Args:
        prompt_ids: of `rows`, see prompts.prompt_id.
    """
    first: dict[str, Row] = {}
    for id_, row in zip(prompt_ids, rows, strict=True):
        first.setdefault(id_, row)
    kept = frozenset(sorted(first)[:limit])
    return [row for id_, row in first.items() if id_ in kept]


def distinct_answers(samples: list[Row]) -> tuple[list[Row], dict[str, int]]:
    """Per prompt `id` (of its row), `prompt` and `answers`: the different texts, in sampled order.

    Empty answers are left out, and those that max_new_tokens cut: as a pair they would end with a stop token that the
    reference never wrote.

    Args:
        samples: rows of out/candidates/samples.jsonl. Prompts with fewer than two such answers are left out.

    Returns:
        The prompts, and how much was left out: `empty`, `cut` and `repeated` answers, `prompts_without_two` prompts.
    """
    answers: dict[str, Row] = {}
    left_out = {"empty": 0, "cut": 0, "repeated": 0}
    for sample in samples:
        row = answers.setdefault(sample["row_id"], {"id": sample["row_id"], "prompt": sample["prompt"], "answers": []})
        if not sample["response"]:
            left_out["empty"] += 1
        elif sample["finish_reason"] != "stop":
            left_out["cut"] += 1
        elif sample["response"] in row["answers"]:
            left_out["repeated"] += 1
        else:
            row["answers"].append(sample["response"])
    rows = [row for row in answers.values() if len(row["answers"]) > 1]
    return rows, left_out | {"prompts_without_two": len(answers) - len(rows)}


def preference_pairs(ranked: list[Row], choose: Choice, min_margin: float) -> tuple[list[Row], list[Row]]:
    """Rows as those of out/validate/train.jsonl (`id`, `prompt`, `chosen`, `rejected`) with both scores.

    `best_worst` makes one pair of the highest and the lowest score, as SimPO's sets; `best_against_rest` n - 1 pairs,
    what the choice of the best of n answers says (Ziegler et al. 2019, arXiv 1909.08593); `all` the n (n - 1) / 2 pairs
    of n answers, 6 of 4. Two answers of equal scores make no pair, nor do two that are closer than `min_margin`.

    Args:
        ranked: rows of out/ranking/ranked.jsonl: `distinct_answers` with `scores`, higher is better.

    Returns:
        The pairs, and those left out: `id` and `reason`, `tied` or `below_min_margin`.
    """
    pairs, left_out = [], []
    for row in ranked:
        for better, worse in _chosen_pairs(row["scores"], choose):
            pair = {
                "id": f"{row['id']}/{better}-{worse}",
                "prompt": row["prompt"],
                "chosen": [{"role": "assistant", "content": row["answers"][better]}],
                "rejected": [{"role": "assistant", "content": row["answers"][worse]}],
                "chosen_score": row["scores"][better],
                "rejected_score": row["scores"][worse],
            }
            margin = pair["chosen_score"] - pair["rejected_score"]
            if margin > 0.0 and margin >= min_margin:
                pairs.append(pair)
            else:
                left_out.append({"id": pair["id"], "reason": "below_min_margin" if margin > 0.0 else "tied"})
    return pairs, left_out


def _chosen_pairs(scores: list[float], choose: Choice) -> Iterator[tuple[int, int]]:
    """Places (better, worse) by falling score."""
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    if choose == "best_worst":
        yield order[0], order[-1]
    elif choose == "best_against_rest":
        yield from ((order[0], other) for other in order[1:])
    else:
        yield from combinations(order, 2)
