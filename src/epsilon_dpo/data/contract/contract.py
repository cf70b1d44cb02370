"""The data contract: Great Expectations before and after tokenisation, each failing row dropped by name or the end.

Two passes over each split. First the dialogues as text; rows that fail there are not tokenised (a chat template may
refuse them). Then the rows that are left, as the model will see them. Last, each split's aggregates. A row that breaks
several promises of one pass is listed once for each.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from epsilon_dpo.data.contract.defects import defects
from epsilon_dpo.data.contract.expectations import AFTER_TOKENISATION, BEFORE_TOKENISATION, REPORTED
from epsilon_dpo.data.contract.facts import (
    BosRule,
    Row,
    check_form,
    dialogue_facts,
    prompts_of,
    special_tokens,
    split_prompt,
    takes_system_turn,
    token_facts,
)
from epsilon_dpo.data.contract.ledger import Ledger
from epsilon_dpo.data.contract.params import Validate
from epsilon_dpo.data.tokens.params import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "eval")
LENGTHS = ("prompt_tokens", "chosen_tokens", "rejected_tokens")


@dataclass(frozen=True)
class Outcome:
    """What a dataset that passes leaves behind.

    Attributes:
        pairs: kept rows per split, prompt explicit: {"id", "prompt", "chosen", "rejected"}.
        dropped: {"split", "id", "expectation", "reason"}, one per row and broken promise.
        result: the content of validation.json.
    """

    pairs: dict[str, list[Row]]
    dropped: list[Row]
    result: dict[str, Any]


def validate(
    dialogues: dict[str, list[Row]], tokenizer: "PreTrainedTokenizerBase", tokens: Tokens, contract: Validate
) -> Outcome:
    """Hold the rows of out/fetch/{train,eval}.jsonl against the contract.

    Args:
        dialogues: rows per split, "train" and "eval".
        tokenizer: the one that the model will be trained with, its chat template in force.

    Raises:
        UserError: rows break a promise that is set to `stop`, or a split breaks one of its limits: one sentence each,
            with the number of rows and the first ids.
    """
    ledger = Ledger(tokens, contract)
    for split in SPLITS:
        check_form(dialogues[split], f"out/fetch/{split}.jsonl")
    specials, eval_prompts = special_tokens(tokenizer), prompts_of(dialogues["eval"])
    system = takes_system_turn(tokenizer)
    pairs: dict[str, list[Row]] = {}
    for split in SPLITS:
        forbidden = eval_prompts if split == "train" else set()
        facts = [dialogue_facts(row, specials, forbidden, system) for row in dialogues[split]]
        columns = list(dialogue_facts(_PROBE, [], set()))
        lost = ledger.judge_rows(split, facts, BEFORE_TOKENISATION + REPORTED, columns)
        pairs[split] = [split_prompt(row) for row in dialogues[split] if row["id"] not in lost]
    ledger.stop_if_broken()

    bos = BosRule(tokenizer)
    columns = list(token_facts(split_prompt(_PROBE), tokenizer, bos, tokens))
    measured: dict[str, list[Row]] = {}
    for split in SPLITS:
        progress = tqdm(pairs[split], desc=f"tokenise {split}", unit="pair")
        facts = [token_facts(pair, tokenizer, bos, tokens) for pair in progress]
        lost = ledger.judge_rows(split, facts, AFTER_TOKENISATION, columns)
        pairs[split] = [pair for pair in pairs[split] if pair["id"] not in lost]
        measured[split] = [row for row in facts if row["id"] not in lost]
    ledger.stop_if_broken()

    for split in SPLITS:
        kept = {pair["id"] for pair in pairs[split]}
        everything = [{"id": row["id"], "dropped": int(row["id"] not in kept)} for row in dialogues[split]]
        ledger.judge_split(split, everything, measured[split])
    ledger.stop_if_broken()
    return Outcome(pairs, _by_split(ledger.dropped), _summary(dialogues, measured, ledger))


# Names the columns of a table that has no row.
_PROBE: Row = {
    "id": "",
    "chosen": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}],
    "rejected": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
}


def _by_split(dropped: list[Row]) -> list[Row]:
    return [entry for split in SPLITS for entry in dropped if entry["split"] == split]


def _summary(dialogues: dict[str, list[Row]], measured: dict[str, list[Row]], ledger: Ledger) -> dict[str, Any]:
    """The content of validation.json."""
    splits = {}
    for split in SPLITS:
        rows, kept = len(dialogues[split]), measured[split]
        cut = sum(row["cut_answers"] for row in kept)
        splits[split] = {"rows": rows, "kept": len(kept), "dropped": rows - len(kept), "truncated_answers": cut}
    return {
        "splits": splits,
        "expectations": sorted(ledger.findings, key=lambda f: SPLITS.index(f["split"])),
        "defects": defects(dialogues),
        "lengths": {split: {name: _spread(measured[split], name) for name in LENGTHS} for split in SPLITS},
        "tokens": ledger.tokens.model_dump(),
    }


def _spread(rows: list[Row], name: str) -> dict[str, float]:
    """Where the values of a column lie."""
    values = np.array([row[name] for row in rows], dtype=float)
    points = {"min": 0, "p10": 10, "median": 50, "p90": 90, "p99": 99, "max": 100}
    return {key: round(float(np.percentile(values, at)), 2) for key, at in points.items()} | {
        "mean": round(float(values.mean()), 2)
    }
