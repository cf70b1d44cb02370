"""Anthropic-HH in its native form, and any dataset written the same way.

`<subset>/<split>.jsonl.gz` holds one pair a line, `{"chosen": transcript, "rejected": transcript}`, a transcript
being "\\n\\nHuman: ...\\n\\nAssistant: ..." over all turns. As in the ε-DPO paper (B.2) the role headers are removed
and the turns become messages. Defects (an empty last answer, a role twice in a row, prompts that differ) are kept:
stage `validate` finds them. What is not a transcript at all stops here.
"""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from epsilon_dpo.data.shapes.turns import parse_transcript
from epsilon_dpo.data.sources.dataset import Dataset, Row
from epsilon_dpo.data.sources.formats import TOO_MUCH
from epsilon_dpo.data.sources.params import HHSource
from epsilon_dpo.data.sources.raw import text_of
from epsilon_dpo.data.sources.watched import sha256
from epsilon_dpo.pipeline.hub.download import hub_file
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Messages, dialogue_identity

LARGEST = 512 << 20  # characters of a file without its compression; the largest published has about 0.1 GB
SUFFIX = ".jsonl.gz"


def read_hh(source: HHSource, seed: int) -> Dataset:
    """The pairs of all subsets, one after the other, in file order.

    If both splits are the same file, `eval_share` of the dialogues are set aside for evaluation.
    `max_train_pairs` and `max_eval_pairs` keep a sample drawn with the seed from all subsets together, in file order.

    Raises:
        UserError: a file is absent, damaged or in another format (file and line are named), or the Hub fails.
    """
    files: dict[str, str] = {}
    train = _read_split(source, source.train_split, files)
    if source.eval_split != source.train_split:
        held_out = _read_split(source, source.eval_split, files)
    else:
        assert source.eval_share is not None  # HHSource demands it
        train, held_out = split_by_dialogue(train, source.eval_share, seed)
    train = _sample(train, source.max_train_pairs, f"{seed}/train")
    held_out = _sample(held_out, source.max_eval_pairs, f"{seed}/eval")
    for name, rows in (("training", train), ("evaluation", held_out)):
        if not rows:
            raise UserError(f"No {name} pair is left; check fetch.eval_share and the splits in params.yaml.")
    facts = {
        "source": "hh",
        "repo": source.repo,
        "revision": source.revision,  # null: a local folder, identified by `files` alone
        "subsets": source.subsets,
        "files": files,
        "true_reward": False,
    }
    return Dataset(train, held_out, facts)


def split_by_dialogue(rows: list[Row], eval_share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(training, evaluation) rows without a common dialogue, each of which may stand there at several of its turns.

    A dialogue is told by its first user turn, and its place depends on that text and the seed, not on its position in
    the file, so a file in another order is split alike.
    """
    dialogues = sorted(
        {_dialogue(row) for row in rows}, key=lambda first: hashlib.sha256(f"{seed}/{first}".encode()).hexdigest()
    )
    held_out = set(dialogues[: round(eval_share * len(dialogues))])
    return [r for r in rows if _dialogue(r) not in held_out], [r for r in rows if _dialogue(r) in held_out]


def _dialogue(row: Row) -> str:
    return json.dumps(dialogue_identity(row["chosen"][:-1]))


def _sample(rows: list[Row], limit: int | None, seed: str) -> list[Row]:
    if limit is None or limit >= len(rows):
        return rows
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), limit))]


def _read_split(source: HHSource, split: str, files: dict[str, str]) -> list[Row]:
    """The rows of `split` over all subsets; enters each file's sha256 in `files`."""
    rows = []
    for subset in source.subsets:
        name = f"{subset}/{split}{SUFFIX}"
        if source.folder:
            path = _local_file(Path(source.folder), subset, split)
        else:
            assert source.repo is not None and source.revision is not None  # HHSource demands them
            path = hub_file(source.repo, name, source.revision, "dataset")
        files[name] = sha256(path)
        rows += _parse_file(_text(path), path, f"{subset}/{split}")
    return rows


def _local_file(folder: Path, subset: str, split: str) -> Path:
    """folder/subset/split.jsonl.gz, or a sentence with what is there instead."""
    if not folder.is_dir():
        raise UserError(
            f"The data folder {folder} does not exist; set fetch.folder in params.yaml to the folder that holds "
            f"{subset}/{split}{SUFFIX}, relative to the project's root."
        )
    if not (folder / subset).is_dir():
        there = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise UserError(f"{folder} has no subset {subset!r} (fetch.subsets); it has {', '.join(there) or 'no folder'}.")
    path = folder / subset / f"{split}{SUFFIX}"
    if not path.is_file():
        there = sorted(file.name.removesuffix(SUFFIX) for file in (folder / subset).glob(f"*{SUFFIX}"))
        raise UserError(
            f"{path} does not exist (fetch.train_split, fetch.eval_split); "
            f"the splits there are {', '.join(there) or 'none'}."
        )
    return path


def _text(path: Path) -> str:
    with text_of(path, str(path)) as text:
        content = text.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise UserError(
            f"{path} holds more than {LARGEST >> 20} MB when it is decompressed, as no file of Anthropic-HH does; "
            "download it again, or split a file of your own."
        )
    return content


def _parse_file(text: str, path: Path, name: str) -> list[Row]:
    """One row per line; only "\\n" ends a line, since other separators occur inside texts."""
    lines = text.removesuffix("\n").split("\n")
    if lines == [""]:
        raise UserError(f"{path} is empty; download it again.")
    rows = []
    for index, line in enumerate(lines):
        where = f"{path}, line {index + 1}"
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            raise UserError(f"{where} is not JSON; the file must hold one object a line.") from None
        except (ValueError, RecursionError):
            raise UserError(f"{where} {TOO_MUCH}") from None
        sides = {side: _side(content, side, where) for side in ("chosen", "rejected")}
        rows.append({"id": f"{name}/{index}", **sides})
    return rows


def _side(content: Any, side: str, where: str) -> Messages:
    """The transcript of one side as messages."""
    if not isinstance(content, dict) or not isinstance(content.get(side), str):
        raise UserError(f"{where} has no text under {side!r}; each line must be {{'chosen': text, 'rejected': text}}.")
    try:
        content[side].encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise UserError(
            f"{where}: {side!r} holds half a character ({half!r}); correct the line or remove it."
        ) from None
    try:
        return parse_transcript(content[side])
    except ValueError as error:
        raise UserError(f"{where}: {side!r} {error}; this is not a transcript in the form of Anthropic-HH.") from None
