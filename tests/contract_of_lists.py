"""The data contract over rows in memory: written, validated as stage validate does it, and read back."""

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from epsilon_dpo.data.contract.contract import validate_files
from epsilon_dpo.data.contract.params import Validate
from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.pipeline.stage.files import read_jsonl

Row = dict[str, Any]


@dataclass(frozen=True)
class Lists:
    """What a dataset that passes leaves behind: the kept rows per split, the dropped ones, validation.json."""

    pairs: dict[str, list[Row]]
    dropped: list[Row]
    result: dict[str, Any]


def write_rows(folder: Path, dialogues: Mapping[str, Iterable[Any]]) -> None:
    """train.jsonl and eval.jsonl, also of rows that no source writes, such as a margin that is not a number."""
    for split, rows in dialogues.items():
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")


def validate(
    dialogues: Mapping[str, Iterable[Any]], tokenizer: PreTrainedTokenizerBase, tokens: Tokens, contract: Validate
) -> Lists:
    """`validate_files` of the rows per split, "train" and "eval"."""
    with tempfile.TemporaryDirectory() as name:
        fetched, out = Path(name) / "fetch", Path(name) / "validate"
        fetched.mkdir(), out.mkdir()
        write_rows(fetched, dialogues)
        result = validate_files(fetched, tokenizer, tokens, contract, out)
        pairs = {split: read_jsonl(out / f"{split}.jsonl") for split in dialogues}
        return Lists(pairs, read_jsonl(out / "dropped.jsonl"), result)
