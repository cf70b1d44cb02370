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


def distinct_answers(samples: list[Row]) -> list[Row]:
    """Per prompt `id` (of its row), `prompt` and `answers`: the different texts, in sampled order.

    Empty answers are left out, and those that max_new_tokens cut: as a pair they would end with a stop token that the
    reference never wrote.

    Args:
        samples: rows of out/candidates/samples.jsonl. Prompts with fewer than two such answers are left out.
    """
    answers: dict[str, Row] = {}
    for sample in samples:
        row = answers.setdefault(sample["row_id"], {"id": sample["row_id"], "prompt": sample["prompt"], "answers": []})
        usable = sample["response"] and sample["finish_reason"] == "stop"
        if usable and sample["response"] not in row["answers"]:
            row["answers"].append(sample["response"])
    return [row for row in answers.values() if len(row["answers"]) > 1]


def preference_pairs(ranked: list[Row], choose: Choice, min_margin: float) -> list[Row]:
    """Rows as those of out/validate/train.jsonl (`id`, `prompt`, `chosen`, `rejected`) with both scores.

    `best_worst` makes one pair of the highest and the lowest score, `best_against_rest` n - 1 pairs with the best,
    `all` the n (n - 1) / 2 pairs of n answers, 6 of 4. Pairs of equal scores, or closer than `min_margin`, are left
    out.

    Args:
        ranked: rows of out/ranking/ranked.jsonl: `distinct_answers` with `scores`, higher is better.
    """
    return [
        {
            "id": f"{row['id']}/{better}-{worse}",
            "prompt": row["prompt"],
            "chosen": [{"role": "assistant", "content": row["answers"][better]}],
            "rejected": [{"role": "assistant", "content": row["answers"][worse]}],
            "chosen_score": row["scores"][better],
            "rejected_score": row["scores"][worse],
        }
        for row in ranked
        for better, worse in _chosen_pairs(row["scores"], choose)
        if row["scores"][better] - row["scores"][worse] > 0.0
        and row["scores"][better] - row["scores"][worse] >= min_margin
    ]


def _chosen_pairs(scores: list[float], choose: Choice) -> Iterator[tuple[int, int]]:
    """Places (better, worse) by falling score."""
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    if choose == "best_worst":
        yield order[0], order[-1]
    elif choose == "best_against_rest":
        yield from ((order[0], other) for other in order[1:])
    else:
        yield from combinations(order, 2)
