"""Preference pairs from the reference's own answers: sampled, ranked by the judge, paired by their scores (pairs.py).

As SimPO's on-policy sets (Meng et al. 2024, arXiv 2405.14734: 5 answers at temperature 0.8, best against worst), with
what their scripts get wrong put right: answers are joined by prompt and not by position, duplicates are removed before
they are ranked, the order is that of the samples and not of a file system, and every score is kept.

The judge that ranks here should not be the only one that scores: a policy is then trained on its evaluator's taste.
"""

from epsilon_dpo.pipeline.stage.files import Row

# What is left out as a reader is told it, after its number.
IN_WORDS = {
    "empty": "empty answers",
    "cut": "answers cut at max_new_tokens",
    "repeated": "repeated answers",
    "prompts_without_two": "prompts without two such answers",
}


def one_row_per_prompt(rows: list[Row], prompt_ids: list[str], limit: int | None) -> list[Row]:
    """The first row of each prompt; of at most `limit` prompts, those with the smallest id.

    Args:
        prompt_ids: one per row, by prompt_ids.prompt_id.
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
