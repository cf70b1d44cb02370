"""The blocks of params.yaml that fit a dataset, ready to be pasted."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from epsilon_dpo.check.params_file import ParamsFile
from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.inspection.judged import Judged
from epsilon_dpo.models.base.params import EmbeddedModel

EVAL_PAIRS = 256  # keep a 95 % interval of a win rate at ±6.3 points or less
# Per cent of the dataset's answers that a sampled one may be as long as, and of the texts that a judge reads whole.
SEEN = 95
STEP = 16  # limits are rounded up to its multiples: a sample and the whole differ a little


def eval_share(pairs: int) -> float:
    """The share of the dialogues that makes about EVAL_PAIRS evaluation pairs, at least 2 % and at most half."""
    return min(0.5, max(0.02, math.ceil(100 * EVAL_PAIRS / max(pairs, 1)) / 100))


def fitting_tokens(lengths: list[dict[str, int]], tokens: Tokens, max_truncated_share: float) -> Tokens:
    """`tokens`, raised where more than 1 % of the prompts do not fit, or more than half of the allowed share of answers
    would be cut."""
    prompt = tokens.max_prompt_length
    prompts = [row["prompt_tokens"] for row in lengths]
    if prompts and np.mean(np.array(prompts) > prompt) > 0.01:
        prompt = _rounded_up(int(np.percentile(prompts, 99, method="higher")))
    pairs = [
        row["prompt_tokens"] + row[side]
        for row in lengths
        for side in ("chosen_tokens", "rejected_tokens")
        if row["prompt_tokens"] <= prompt
    ]
    length = tokens.max_length if prompt == tokens.max_prompt_length else max(tokens.max_length, prompt + STEP)
    if pairs and np.mean(np.array(pairs) > length) > max_truncated_share / 2:
        length = _rounded_up(int(np.percentile(pairs, 100 * (1 - max_truncated_share / 2), method="higher")))
    return Tokens(max_prompt_length=prompt, max_length=length)


def raised(limit: int, lengths: Sequence[int]) -> int:
    """`limit`, raised where it is below more than one of twenty `lengths`."""
    if not lengths:
        return limit
    fits = int(np.percentile(lengths, SEEN, method="inverted_cdf"))
    return limit if fits <= limit else _rounded_up(fits)


def blocks(
    fetch: dict[str, Any],
    params: ParamsFile,
    tokens: Tokens,
    pairs: tuple[int, int],
    answers: Sequence[int],
    judged: Judged | None,
) -> dict[str, Any]:
    """`fetch`, and of `tokens`, `base`, `validate`, `judge` and `sample` those that must change for it.

    Args:
        fetch: the block that reads the dataset.
        tokens: limits that fit its lengths.
        pairs: how many training and evaluation pairs there will be, about.
        answers: tokens of the chosen ones.
        judged: what a judge that is trained here reads; None: the judge is another, or there is no pair.
    """
    found: dict[str, Any] = {"fetch": fetch}
    if tokens != params.tokens:
        found["tokens"] = tokens.model_dump()
    longest = raised(params.sample.max_new_tokens, answers)
    sample = params.sample.model_copy(update={"max_new_tokens": longest})
    needed = max(params.model_copy(update={"tokens": tokens, "sample": sample}).text_lengths().values())
    if isinstance(params.base, EmbeddedModel) and needed > params.base.max_position_embeddings:
        found["base"] = params.base.model_dump() | {"max_position_embeddings": _rounded_up(needed)}
    contract = params.contract.model_dump()
    counts = zip(("min_train_pairs", "min_eval_pairs"), pairs, strict=True)
    least = {name: min(contract[name], max(count // 2, 1)) for name, count in counts}
    if contract | least != contract:
        found["validate"] = contract | least
    if judged is not None:
        judge = params.judge.model_dump()
        limits = {
            "source_max_length": raised(judge["source_max_length"], judged.sources),
            "candidate_max_length": raised(judge["candidate_max_length"], judged.candidates),
        }
        if judge | limits != judge:
            found["judge"] = {"source": judge["source"]} | judge | limits
    if longest != params.sample.max_new_tokens:
        found["sample"] = params.sample.model_dump() | {"max_new_tokens": longest}
    return found


def as_yaml(content: dict[str, Any]) -> str:
    """As params.yaml is written: blocks, and in one line what has no block below it."""
    yaml = YAML()
    yaml.width = 120
    yaml.representer.add_representer(
        type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    text = io.StringIO()
    written = {name: _flow_below(block, flat=name == "tokens") for name, block in content.items()}
    yaml.dump(CommentedMap(written), text)
    return text.getvalue()


def _flow_below(block: dict[str, Any], flat: bool) -> CommentedMap:
    written = CommentedMap()
    for key, value in block.items():
        written[key] = _flow_below(value, flat=len(value) < 6) if isinstance(value, dict) else value
    if flat:
        written.fa.set_flow_style()
    return written


def _rounded_up(tokens: int) -> int:
    return -(-tokens // STEP) * STEP
