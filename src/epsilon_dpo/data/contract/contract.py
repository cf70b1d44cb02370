"""The data contract: Great Expectations before and after tokenisation; a failing row is dropped or stops the stage.

Two passes over the splits, in chunks, so that memory does not grow with the rows. First the dialogues as text; rows
that fail there are not tokenised (a chat template may refuse them). Then the rows that are left, as the model will see
them. Last, each split's aggregates. A row that fails several expectations of one pass is listed once for each.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from epsilon_dpo.data.contract.defects import RELATIONS, Defects
from epsilon_dpo.data.contract.expectations import AFTER_TOKENISATION, BEFORE_TOKENISATION
from epsilon_dpo.data.contract.ledger import Ledger
from epsilon_dpo.data.contract.near import NearPrompts
from epsilon_dpo.data.contract.params import Validate
from epsilon_dpo.data.contract.profile import Lengths, Scripts, SharedAnswers, margins
from epsilon_dpo.data.contract.relations import Relations
from epsilon_dpo.data.facts.rows import (
    SPLITS,
    BosRule,
    Row,
    check_form,
    dialogue_facts,
    prompts_of,
    special_tokens,
    split_prompt,
    token_facts,
)
from epsilon_dpo.data.facts.survival import takes_system_turn
from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.pipeline.stage.files import JsonlFile, append_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 10_000  # rows in memory; Great Expectations takes 0.1 s per table, whatever its size
Take = Callable[[str, list[Row]], None]  # a split and some of its rows


def validate_files(
    fetched: Path, tokenizer: "PreTrainedTokenizerBase", tokens: Tokens, contract: Validate, out: Path
) -> dict[str, Any]:
    """Hold the rows of out/fetch against the contract, with a memory that does not depend on how many there are.

    Args:
        fetched: folder of train.jsonl and eval.jsonl, which are read twice.
        tokenizer: the one that the model will be trained with, its chat template in force.
        out: folder for train.jsonl and eval.jsonl, the kept rows as `split_prompt` writes them ({"id", "prompt",
            "chosen", "rejected"}, ...), and for dropped.jsonl, {"split", "id", "expectation", "reason"} per row and
            failed expectation.

    Returns:
        the content of validation.json.

    Raises:
        UserError: rows fail an expectation set to `stop`, or a split breaks one of its limits: one sentence each,
            with the number of rows and the first ids.
    """
    with ExitStack() as files:
        kept = {split: files.enter_context((out / f"{split}.jsonl").open("w", encoding="utf-8")) for split in SPLITS}
        dropped = {split: files.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for split in SPLITS}
        validation = _Validation(
            {split: JsonlFile(fetched / f"{split}.jsonl") for split in SPLITS},
            tokens,
            contract,
            lambda split, rows: append_jsonl(kept[split], rows),
            lambda split, rows: append_jsonl(dropped[split], rows),
        )
        result = validation.run(tokenizer)
        with (out / "dropped.jsonl").open("w", encoding="utf-8") as file:
            for part in dropped.values():
                part.seek(0)
                shutil.copyfileobj(part, file)
    return result


class _Validation:
    """What the passes share."""

    def __init__(
        self, dialogues: Mapping[str, Iterable[Row]], tokens: Tokens, contract: Validate, keep: Take, drop: Take
    ) -> None:
        self.dialogues, self.tokens, self.keep = dialogues, tokens, keep
        self.ledger = Ledger(tokens, contract, drop)
        self.relations, self.defects, self.scripts, self.lengths = Relations(), Defects(), Scripts(), Lengths()
        self.eval_prompts, self.eval_prompt_ids = dict[int, str](), dict[int, str]()  # id of the first row by digest
        self.near = NearPrompts()
        self.lost = {split: bytearray() for split in SPLITS}  # of each row: was it dropped for its text

    def run(self, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
        """The content of validation.json."""
        specials, system = special_tokens(tokenizer), takes_system_turn(tokenizer)
        for split in reversed(SPLITS):  # training prompts are compared with those of the evaluation split
            self.as_text(split, specials, system)
        self.relations.finish()
        for split in SPLITS:
            self.ledger.note_repeated_prompts(split, self.relations.prompts(split), self.relations.id_of)
        self.ledger.stop_if_broken()
        shared, bos = SharedAnswers(self.relations), BosRule(tokenizer)
        for split in reversed(SPLITS):
            self.as_tokens(split, tokenizer, bos, shared)
        self.ledger.stop_if_broken()
        for split in SPLITS:
            rows, kept = self.relations.rows(split), self.lengths.kept(split)
            dropped = np.repeat([0, 1], [kept, rows - kept])
            length = self.lengths.fitting(split, self.ledger.contract.max_truncated_share)
            self.ledger.judge_split(split, dropped, self.lengths.truncated_share(split), length)
        self.ledger.stop_if_broken()
        return self.summary(shared)

    def as_text(self, split: str, specials: list[str], system: bool) -> None:
        """The first pass over `split`: its dialogues."""
        train = split == "train"
        others, near = (self.eval_prompts, self.near.near) if train else ({}, None)
        columns = list(dialogue_facts(_PROBE, [], {}))
        for first, rows in _chunks(self.dialogues[split]):
            check_form(rows, f"out/fetch/{split}.jsonl", first)
            self.relations.add(split, first, rows)
            self.defects.add(split, rows)
            self.scripts.add(split, rows)
            facts = [dialogue_facts(row, specials, others, near, system) for row in rows]
            if not train:
                for row in rows:
                    for prompt in prompts_of(row):
                        self.eval_prompts.setdefault(prompt, row["id"])
                    self.near.add(row["id"], row["chosen"][:-1])
            lost = self.ledger.judge_rows(split, facts, BEFORE_TOKENISATION, columns)
            self.lost[split].extend(row["id"] in lost for row in rows)

    def as_tokens(self, split: str, tokenizer: "PreTrainedTokenizerBase", bos: BosRule, shared: SharedAnswers) -> None:
        """The second pass over `split`: what is left, as the model will see it."""
        others = self.eval_prompt_ids if split == "train" else {}
        columns = list(token_facts(split_prompt(_PROBE), tokenizer, bos, self.tokens))
        lost_as_text = self.lost[split]
        with tqdm(total=lost_as_text.count(0), desc=f"tokenise {split}", unit="pair") as progress:
            for first, rows in _chunks(self.dialogues[split]):
                shared.add(split, first, rows)
                pairs = [split_prompt(row) for place, row in enumerate(rows, first - 1) if not lost_as_text[place]]
                facts = []
                for pair in pairs:
                    facts.append(token_facts(pair, tokenizer, bos, self.tokens, others))
                    progress.update()
                if split == "eval":
                    for row in facts:
                        self.eval_prompt_ids.setdefault(row["prompt_digest"], row["id"])
                lost = self.ledger.judge_rows(split, facts, AFTER_TOKENISATION, columns)
                self.lengths.add(split, [row for row in facts if row["id"] not in lost])
                self.keep(split, [pair for pair in pairs if pair["id"] not in lost])

    def summary(self, shared: SharedAnswers) -> dict[str, Any]:
        splits = {}
        for split in SPLITS:
            rows, kept = self.relations.rows(split), self.lengths.kept(split)
            cut = self.lengths.cut_answers(split)
            splits[split] = {"rows": rows, "kept": kept, "dropped": rows - kept, "truncated_answers": cut}
        return {
            "splits": splits,
            "expectations": self.ledger.findings(),
            "defects": self.defects.entries(self.relations),
            "lengths": {split: self.lengths.spread(split) for split in SPLITS},
            "length_bias": {split: self.lengths.bias(split) for split in SPLITS},
            "shared_answers": shared.summary(),
            "margins": margins(self.relations),
            "scripts": {split: self.scripts.summary(split) for split in SPLITS},
            "tokens": self.tokens.model_dump(),
        }


def metrics(result: dict[str, Any]) -> dict[str, float]:
    """What MLflow shows of validation.json: the counts of rows, and one number per kind of doubt."""
    found = {f"{split}/{name}": count for split, counts in result["splits"].items() for name, count in counts.items()}
    found |= {f"{split}/chosen_longer": bias["chosen_longer_share"] for split, bias in result["length_bias"].items()}
    found |= {f"{split}/negative_margins": margin["negative_share"] for split, margin in result["margins"].items()}
    relations = {name for name, _, _ in RELATIONS}
    found |= {defect["name"]: defect["count"] for defect in result["defects"] if defect["name"] in relations}
    found |= {
        f["expectation"]: f["unexpected"]
        for f in result["expectations"]
        if (f["split"], f["expectation"]) == ("train", "splits_share_no_near_prompt")
    }
    return {name: float(value) for name, value in found.items()}


# Names the columns of a table that has no row.
_PROBE: Row = {
    "id": "",
    "chosen": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}],
    "rejected": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
}


def _chunks(rows: Iterable[Row]) -> Iterator[tuple[int, list[Row]]]:
    """CHUNK rows at a time with the number of the first, from 1; one empty chunk if there is no row."""
    waiting = iter(rows)
    for first in count(1, CHUNK):
        chunk = list(islice(waiting, CHUNK))
        if chunk or first == 1:
            yield first, chunk
        if len(chunk) < CHUNK:
            return
