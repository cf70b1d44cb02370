"""The data contract as Great Expectations: what each row must satisfy, and how a row that does not is explained."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from itertools import count
from typing import Any

import great_expectations.expectations as gxe

from epsilon_dpo.data.contract.near import NEAR
from epsilon_dpo.data.contract.params import Validate
from epsilon_dpo.data.facts.rows import NO_SYSTEM
from epsilon_dpo.data.tokens.params import Tokens

Facts = dict[str, Any]


@dataclass(frozen=True)
class RowExpectation:
    """One expectation about a row.

    Attributes:
        name: its key in params.yaml, `validate.on_failure`.
        meaning: text of what holds for a good row, for the page and for messages.
        build: the Great Expectations object that decides.
        reason: why a row with these facts fails, for dropped.jsonl.
        remedy: what else than dropping the rows helps.
        again: whether the first pass asks the same of the text; rows are counted there.
    """

    name: str
    meaning: str
    build: Callable[[Tokens], gxe.Expectation]
    reason: Callable[[Facts, Tokens], str]
    remedy: str = "fix the data"
    again: bool = False


def _is(column: str, value: bool | str) -> Callable[[Tokens], gxe.Expectation]:
    return lambda tokens: gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[value])


def _both(facts: Facts) -> str:
    return f"chosen has {facts['chosen_tokens']}, rejected {facts['rejected_tokens']} tokens"


def _first_wrong_role(roles: str) -> str:
    """Where `roles` ("user assistant / user assistant": chosen / rejected) leaves the alternation."""
    for side, text in zip(("chosen", "rejected"), roles.split("/"), strict=True):
        found = text.split()
        first = int(found[:1] == ["system"])
        for number, role in enumerate(found[first:], start=1):
            expected = "user" if number % 2 else "assistant"
            if role == NO_SYSTEM:
                return f"turn {number} of {side} is by system, expected {expected}: the template has no system role"
            if role != expected:
                return f"turn {number + first} of {side} is by {role}, expected {expected}"
        if len(found[first:]) % 2 or not found[first:]:
            return f"{side} does not end with an answer of the assistant ({len(found)} turns)"
    raise AssertionError(roles)


SHARES_NO_PROMPT = "splits_share_no_prompt", "no training prompt is an evaluation prompt"
TEMPLATE_REMEDY = "use a chat template that fits the data (docs/models.md)"

BEFORE_TOKENISATION = [
    RowExpectation(
        "sides_not_empty",
        "every turn of both sides has text",
        lambda tokens: gxe.ExpectColumnValuesToBeBetween(column="shortest_turn_chars", min_value=1),
        lambda facts, tokens: f"no text in {facts['empty_turns'] or 'a side'}",
    ),
    RowExpectation(
        "sides_differ",
        "the two answers are different texts",
        _is("same_answer", False),
        lambda facts, tokens: f"both answers are the same text of {facts['chosen_chars']} characters",
    ),
    RowExpectation(
        "same_prompt",
        "both sides answer the same prompt",
        lambda tokens: gxe.ExpectColumnPairValuesToBeEqual(column_A="chosen_prompt", column_B="rejected_prompt"),
        lambda facts, tokens: "the turns before the answer differ between chosen and rejected",
    ),
    RowExpectation(
        "roles_alternate",
        "user and assistant take turns, the user begins (after a system turn, if any), the assistant ends",
        lambda tokens: gxe.ExpectColumnValuesToMatchRegex(
            column="roles", regex="^(?:system )?(?:user assistant )+/(?: system)?(?: user assistant)+$"
        ),
        lambda facts, tokens: _first_wrong_role(facts["roles"]),
    ),
    RowExpectation(
        "no_special_tokens_in_text",
        "no turn contains text that the tokenizer reads as a special token",
        _is("special_tokens_in_text", ""),
        lambda facts, tokens: f"the text contains {facts['special_tokens_in_text']}, which would end or begin a turn",
    ),
    RowExpectation(
        *SHARES_NO_PROMPT,
        _is("same_eval_prompt", ""),
        lambda facts, tokens: f"its prompt is that of {facts['same_eval_prompt']} in the evaluation split",
    ),
    RowExpectation(
        "splits_share_no_near_prompt",
        f"no training prompt shares {NEAR:.0%} of its trigrams with a different evaluation prompt",
        _is("near_eval_prompt", ""),
        lambda facts, tokens: (
            f"its prompt shares {facts['near_eval_share']:.0%} of the trigrams with that of {facts['near_eval_prompt']}"
        ),
    ),
]

AFTER_TOKENISATION = [
    RowExpectation(
        "text_survives_template",
        "the chat template writes every turn's text in full, white space aside",
        _is("lost_text", ""),
        lambda facts, tokens: f"the chat template leaves out or changes text of {facts['lost_text']}",
        TEMPLATE_REMEDY,
    ),
    RowExpectation(
        "one_bos",
        "exactly one BOS, at the start (where BOS also marks turns: as many as the template writes)",
        lambda tokens: gxe.ExpectColumnValuesToBeBetween(column="bos_errors", min_value=0, max_value=0),
        lambda facts, tokens: (
            facts["bos_fault"] or f"{facts['bos_errors']} BOS tokens too many, too few or not at the start"
        ),
        TEMPLATE_REMEDY,
    ),
    # Tokenizers write characters in one of their forms (Qwen's: NFC), templates a system turn into the user's.
    RowExpectation(
        *SHARES_NO_PROMPT,
        _is("same_eval_prompt_ids", ""),
        lambda facts, tokens: (
            f"its prompt has the token ids of that of {facts['same_eval_prompt_ids']} in the evaluation split"
        ),
        again=True,
    ),
    RowExpectation(
        "prompt_ids_are_prefix",
        "the ids of prompt and answer begin with the ids of the prompt alone",
        _is("continues_prompt", True),
        lambda facts, tokens: "a token spans the border of prompt and answer, so no policy could sample this answer",
    ),
    RowExpectation(
        "stop_token_ends_answer",
        "the stop token is the last token of each answer and stands nowhere else in it",
        _is("ends_with_stop", True),
        lambda facts, tokens: f"the stop token is not exactly at the end of both answers ({_both(facts)})",
    ),
    RowExpectation(
        "prompt_fits",
        "the prompt has at most tokens.max_prompt_length tokens (prompts are never cut)",
        lambda tokens: gxe.ExpectColumnValuesToBeBetween(column="prompt_tokens", max_value=tokens.max_prompt_length),
        lambda facts, tokens: (
            f"the prompt has {facts['prompt_tokens']} tokens, tokens.max_prompt_length is {tokens.max_prompt_length}"
        ),
        "raise tokens.max_prompt_length",
    ),
    RowExpectation(
        "sides_differ_after_truncation",
        "the answers still differ when cut at tokens.max_length",
        _is("same_answer_ids", False),
        lambda facts, tokens: (
            f"both answers have the same ids up to tokens.max_length = {tokens.max_length} ({_both(facts)})"
        ),
        "raise tokens.max_length",
    ),
]


@dataclass(frozen=True)
class SplitExpectation:
    """One expectation about an entire split; failing it always stops.

    Attributes:
        name: its key in params.yaml below `validate`.
        column: what it is about: "dropped" (1 or 0) of all rows, or "truncated_share" of those kept.
        sentence: error message, given the observed value and how many rows it is of.
        remedy: what to do about it.
    """

    name: str
    meaning: str
    column: str
    build: gxe.Expectation
    sentence: Callable[[float, int], str]
    remedy: str


def split_expectations(split: str, contract: Validate, length: int) -> list[SplitExpectation]:
    """The expectations about the split "train" or "eval" under the limits of `contract`.

    Args:
        length: the tokens.max_length that would cut few enough answers.
    """
    key = f"min_{split}_pairs"
    least, dropped, cut = getattr(contract, key), contract.max_dropped_share, contract.max_truncated_share
    return [
        SplitExpectation(
            key,
            f"at least {least:,} rows are kept",
            "truncated_share",
            gxe.ExpectTableRowCountToBeBetween(min_value=least),
            lambda seen, rows: f"it keeps {seen:,.0f} rows, fewer than {least:,}",
            f"fetch or keep more rows, or lower validate.{key} in params.yaml",
        ),
        SplitExpectation(
            "max_dropped_share",
            f"at most {_in_full(dropped)} of the rows are dropped",
            "dropped",
            gxe.ExpectColumnMeanToBeBetween(column="dropped", max_value=dropped),
            lambda seen, rows: f"{_more(seen, rows, dropped)} rows are dropped, more than {_in_full(dropped)}",
            "fix the most frequent cause, or raise validate.max_dropped_share in params.yaml",
        ),
        SplitExpectation(
            "max_truncated_share",
            f"at most {_in_full(cut)} of the kept answers are cut at tokens.max_length",
            "truncated_share",
            gxe.ExpectColumnMeanToBeBetween(column="truncated_share", max_value=cut),
            lambda seen, rows: (
                f"{_more(seen, 2 * rows, cut)} answers are cut at tokens.max_length, more than {_in_full(cut)}"
            ),
            f"raise tokens.max_length to {length:,} or more, or validate.max_truncated_share, in params.yaml",
        ),
    ]


def _in_full(limit: float) -> str:
    exact = _exact(limit)
    return _percent(limit, lambda rounded: rounded == exact)


def _more(share: float, of: int, limit: float) -> str:
    """A share above its limit, as a count and in per cent: "301 (10.03%) of its 3,000"."""
    exact = _exact(limit)
    return f"{round(share * of):,} ({_percent(share, lambda rounded: rounded > exact)}) of its {of:,}"


def _percent(share: float, is_enough: Callable[[Decimal], bool]) -> str:
    """`share` with two decimals, or with as many more as make `is_enough` of what is then read true."""
    exact = _exact(share)
    digits = next(digits for digits in count(2) if is_enough(round(exact, digits + 2)))
    return f"{exact:.{digits}%}"


def _exact(share: float) -> Decimal:
    return Decimal(str(share))  # as it is written: 100 times 0.29 as a float is less than 29
