"""A sample of dialogues against the contract, and their lengths, without stopping at anything."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from epsilon_dpo.data.contract.expectations import AFTER_TOKENISATION, BEFORE_TOKENISATION
from epsilon_dpo.data.contract.ledger import Ledger
from epsilon_dpo.data.contract.params import Validate
from epsilon_dpo.data.contract.profile import LENGTHS
from epsilon_dpo.data.facts.bos import BosRule
from epsilon_dpo.data.facts.rows import dialogue_facts, special_tokens, split_prompt, token_facts
from epsilon_dpo.data.facts.survival import takes_system_turn
from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.pipeline.stage.files import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Measured:
    """What was found on a sample.

    Attributes:
        broken: per expectation that some row fails: `expectation`, `rows` (how many), `first` (the id of the first) and
            `reason` (why that one does).
        pairs: rows that can be rendered, prompt explicit, too long ones included.
        lengths: of each of `pairs`, LENGTHS, in tokens; answers with their stop token, not cut.
        kept: `token_facts` of those of `pairs` that meet every expectation; of no other does the contract count answers
            that are cut.
    """

    broken: list[dict[str, Any]]
    pairs: list[Row]
    lengths: list[dict[str, int]]
    kept: list[Row]


def measure(rows: list[Row], tokenizer: "PreTrainedTokenizerBase", tokens: Tokens, contract: Validate) -> Measured:
    """Hold `rows` (as stage `fetch` writes them, at least one) against the contract.

    Raises:
        UserError: the chat template refuses a dialogue.
    """
    drop_all = dict.fromkeys(type(contract.on_failure).model_fields, "drop")
    lenient = contract.model_copy(update={"on_failure": contract.on_failure.model_copy(update=drop_all)})
    dropped: list[Row] = []
    ledger = Ledger(tokens, lenient, lambda split, entries: dropped.extend(entries))
    specials, system = special_tokens(tokenizer), takes_system_turn(tokenizer)
    dialogues = [dialogue_facts(row, specials, {}, takes_system=system) for row in rows]
    lost = ledger.judge_rows("train", dialogues, BEFORE_TOKENISATION, list(dialogues[0]))
    pairs = [split_prompt(row) for row in rows if row["id"] not in lost]
    facts: list[Row] = []
    kept: list[Row] = []
    if pairs:
        bos = BosRule(tokenizer)
        facts = [token_facts(pair, tokenizer, bos, tokens) for pair in pairs]
        lost = ledger.judge_rows("train", facts, AFTER_TOKENISATION, list(facts[0]))
        kept = [row for row in facts if row["id"] not in lost]
    return Measured(_broken(ledger, dropped), pairs, [{name: row[name] for name in LENGTHS} for row in facts], kept)


def _broken(ledger: Ledger, dropped: list[Row]) -> list[dict[str, Any]]:
    reasons = {entry["expectation"]: entry["reason"] for entry in reversed(dropped)}
    return [
        {
            "expectation": finding["expectation"],
            "rows": finding["unexpected"],
            "first": finding["first_ids"][0],
            "reason": reasons[finding["expectation"]],
        }
        for finding in ledger.findings()
        if finding["unexpected"]
    ]
