"""The data contract for pairs that a policy wrote: what stage `validate` asks of a dataset's pairs as token ids.

Their prompts have passed it. Their answers are texts again, after decoding, and may spell a special token, merge with
the end of the prompt, or differ only where `tokens.max_length` cuts them: a policy would then learn from a pair of
equal answers. Such pairs are named by the expectation they fail, as in out/validate/dropped.jsonl.

`validate.max_truncated_share` is not asked of them: an answer that `tokens.max_length` cuts is trained without its stop
token, and counted (`cut_answers` of pairs.json).
"""

from typing import TYPE_CHECKING

from epsilon_dpo.data.facts.rows import BosRule, Row, special_tokens, token_facts
from epsilon_dpo.data.tokens.params import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def fit_to_train_on(
    tokenizer: "PreTrainedTokenizerBase", pairs: list[Row], tokens: Tokens
) -> tuple[list[Row], list[Row], int]:
    """The pairs that keep the contract, and the others: `id` and `reason`, the first expectation failed.

    And how many answers of the former `tokens.max_length` cuts; one that is in several pairs counts in each.
    """
    specials, bos = special_tokens(tokenizer), BosRule(tokenizer)
    fit, left_out, cut = [], [], 0
    for pair in pairs:
        facts = token_facts(pair, tokenizer, bos, tokens)
        reason = _broken(pair, specials, facts)
        if reason:
            left_out.append({"id": pair["id"], "reason": reason})
        else:
            fit.append(pair)
            cut += facts["cut_answers"]
    return fit, left_out, cut


def _broken(pair: Row, specials: list[str], facts: Row) -> str:
    """The name of an expectation of data/contract/expectations.py that fails, empty if none does."""
    kept = {
        "no_special_tokens_in_text": not any(
            special in pair[side][0]["content"] for special in specials for side in ("chosen", "rejected")
        ),
        "text_survives_template": not facts["lost_text"],
        "one_bos": facts["bos_errors"] == 0,
        "prompt_ids_are_prefix": facts["continues_prompt"],
        "stop_token_ends_answer": facts["ends_with_stop"],
        "sides_differ_after_truncation": not facts["same_answer_ids"],
    }
    return next((name for name, true in kept.items() if not true), "")
