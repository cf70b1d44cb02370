"""Rows that keep the data contract, and the params that ask for it; the tests beside add rows that break it."""

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedTokenizerFast

from epsilon_dpo.data.contract.params import RowExpectations, Validate
from epsilon_dpo.data.tokens.params import Tokens

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
Row = dict[str, Any]
TOKENS = Tokens(max_prompt_length=40, max_length=60)


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def row(prompt: str, chosen: str = "Good question!", rejected: str = "No.") -> Row:
    return sides(turns(prompt, chosen), turns(prompt, rejected))


def sides(chosen: list[dict[str, str]], rejected: list[dict[str, str]]) -> Row:
    return {"id": "bad", "chosen": chosen, "rejected": rejected}


def good(split: str, number: int) -> Row:
    return row(f"What is a whale? {split} {number}.") | {"id": f"{split}/{number}"}


def contract(**changes: Any) -> Validate:
    limits = {"max_dropped_share": 0.5, "max_truncated_share": 0.5, "min_train_pairs": 1, "min_eval_pairs": 1}
    on_failure = dict.fromkeys(RowExpectations.model_fields, "drop") | changes.pop("on_failure", {})
    return Validate(on_failure=RowExpectations(**on_failure), **{**limits, **changes})


def dialogues(*extra: Row) -> dict[str, list[Row]]:
    return {"train": [*(good("train", n) for n in range(4)), *extra], "eval": [good("eval", n) for n in range(3)]}


SYSTEM = [{"role": "system", "content": "Be kind."}, *turns("What?")]
YES, NO = ([{"role": "assistant", "content": text}] for text in ("Yes.", "No."))
