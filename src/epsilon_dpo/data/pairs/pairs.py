"""Stage `pairs` in one call: the dataset's pairs, or those of the reference's ranked answers, as token ids."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from epsilon_dpo.data.facts.rows import BESIDE
from epsilon_dpo.data.pairs.on_policy_contract import fit_to_train_on
from epsilon_dpo.data.pairs.params import Choice, DatasetPairs, OnPolicyPairs
from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.data.tokens.tokenisation import tokenise_pair
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import JsonlFile, Row, count_lines, read_jsonl, write_json, write_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The reasons of dropped.jsonl as a reader is told them, after the number of pairs.
IN_WORDS = {
    "tied": "with equal scores",
    "below_min_margin": "closer than pairs.min_margin",
    "refused": "answers that the judge refused to compare",
    "no_special_tokens_in_text": "with the text of a special token",
    "text_survives_template": "changed by the chat template",
    "one_bos": "with a misplaced BOS",
    "prompt_ids_are_prefix": "with a token across prompt and answer",
    "stop_token_ends_answer": "without one stop token at the end",
    "sides_differ_after_truncation": "equal up to tokens.max_length",
}


def write_pairs(
    config: DatasetPairs | OnPolicyPairs,
    tokenizer: "PreTrainedTokenizerBase",
    tokens: Tokens,
    validated: Path,
    ranked: Path,
    out: Path,
) -> dict[str, Any]:
    """Write train.jsonl and eval.jsonl (`id`, token ids, and BESIDE where known) and pairs.json to `out`.

    On-policy pairs are also written as text, with the ones left out: train_text.jsonl and dropped.jsonl.

    Args:
        validated: folder of the dataset's train.jsonl and eval.jsonl.
        ranked: rows of out/ranking/ranked.jsonl; not read where pairs are the dataset's.

    Returns:
        the content of pairs.json: `source`, the number of `train` and `eval` pairs, and of those `left_out` by reason;
        of on-policy pairs also `cut_answers`, how many answers to train on `tokens.max_length` cuts.

    Raises:
        UserError: no on-policy pair is left, or a pair cannot be tokenised (data/tokens/tokenisation.py).
    """
    texts = {split: validated / f"{split}.jsonl" for split in ("train", "eval")}
    found: dict[str, Any] = {"left_out": {}}
    if isinstance(config, OnPolicyPairs):
        texts["train"] = out / "train_text.jsonl"
        found = _on_policy(config, tokenizer, tokens, read_jsonl(ranked), out)
    counts = {split: count_lines(path) for split, path in texts.items()}
    for split, path in texts.items():
        with tqdm(JsonlFile(path), desc=f"tokenise {split}", unit="pair", total=counts[split]) as rows:
            write_jsonl(out / f"{split}.jsonl", (_tokenised(row, tokenizer, tokens) for row in rows))
    content = {"source": config.source, **counts, **found}
    write_json(out / "pairs.json", content)
    return content


def _tokenised(row: Row, tokenizer: "PreTrainedTokenizerBase", tokens: Tokens) -> Row:
    beside = {name: row[name] for name in BESIDE if name in row}
    return {"id": row["id"], **tokenise_pair(tokenizer, row, tokens), **beside}


def _on_policy(
    config: OnPolicyPairs, tokenizer: "PreTrainedTokenizerBase", tokens: Tokens, ranked: list[Row], out: Path
) -> dict[str, Any]:
    """Write the pairs to train on, as text, and those left out; what pairs.json says of both."""
    pairs, too_close = preference_pairs(ranked, config.choose, config.min_margin)
    fit, unfit, cut = fit_to_train_on(tokenizer, pairs, tokens)
    write_jsonl(out / "train_text.jsonl", fit)
    write_jsonl(out / "dropped.jsonl", too_close + unfit)
    left_out = dict(Counter(pair["reason"] for pair in too_close + unfit))
    if not fit:
        raise UserError(
            f"None of {len(ranked)} prompts with two different answers of the reference gives a pair (left out: "
            f"{in_words(left_out)}); {_remedy(left_out, config.min_margin)}."
        )
    return {"left_out": left_out, "cut_answers": cut}


def in_words(left_out: dict[str, int]) -> str:
    """How many pairs were left out and why, for a line or a sentence."""
    return ", ".join(f"{count} {IN_WORDS[reason]}" for reason, count in left_out.items()) or "none"


def _remedy(left_out: dict[str, int], min_margin: float) -> str:
    """What helps against the most frequent reason; where there is none, no prompt has two answers."""
    if not left_out:
        return "raise candidates.temperature, or candidates.max_new_tokens where answers were cut"
    # Of two that are as frequent not `refused`, which counts answers.
    reason = max(left_out, key=lambda one: (left_out[one], one != "refused"))
    remedies = {
        "below_min_margin": f"lower pairs.min_margin = {min_margin}",
        "tied": "raise candidates.temperature",
        "refused": "take another judge, which compares such answers",
        "sides_differ_after_truncation": "raise tokens.max_length",
    }
    of_the_contract = f"see {reason} in out/validate/validation.html, and the answers in out/ranking/ranked.jsonl"
    return remedies.get(reason, of_the_contract)


def preference_pairs(ranked: list[Row], choose: Choice, min_margin: float) -> tuple[list[Row], list[Row]]:
    """Rows as those of out/validate/train.jsonl (`id`, `prompt`, `chosen`, `rejected`) with both scores.

    `best_worst` makes one pair of the highest and the lowest score, as SimPO's sets; `best_against_rest` n - 1 pairs,
    what the choice of the best of n answers says (Ziegler et al. 2019, arXiv 1909.08593); `all` the n (n - 1) / 2 pairs
    of n answers, 6 of 4. Two answers of equal scores make no pair, nor do two that are closer than `min_margin`.

    Args:
        ranked: rows of out/ranking/ranked.jsonl: `distinct_answers` with `scores`, higher is better; None: the judge
            refused to compare this answer, so it is in no pair.

    Returns:
        The pairs, and those left out: `id` and `reason`, `tied` or `below_min_margin`; and the answers that are
        `refused`.
    """
    pairs, left_out = [], []
    for row in ranked:
        for place, score in enumerate(row["scores"]):
            if score is None:
                left_out.append({"id": f"{row['id']}/{place}", "reason": "refused"})
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


def _chosen_pairs(scores: Sequence[float | None], choose: Choice) -> Iterator[tuple[int, int]]:
    """Places (better, worse) by falling score."""
    known = {place: score for place, score in enumerate(scores) if score is not None}
    order = sorted(known, key=lambda place: (-known[place], place))
    if len(order) < 2:
        return
    if choose == "best_worst":
        yield order[0], order[-1]
    elif choose == "best_against_rest":
        yield from ((order[0], other) for other in order[1:])
    else:
        yield from combinations(order, 2)


def most_pairs(answers: int, choose: Choice) -> int:
    """Of so many answers to a prompt, as `preference_pairs` chooses them."""
    return sum(1 for _ in _chosen_pairs([0.0] * answers, choose))
