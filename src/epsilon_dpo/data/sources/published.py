"""`source: dataset`: preference data in any published shape (data/shapes), from files below data/ or from the Hub.

Rows stream from the files to files of ours in the stage's scratch folder: a million need no more memory than ten
thousand. What makes no pair is written to dropped.jsonl with its reason; what is not of the shape at all stops here.
"""

import hashlib
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tqdm import tqdm

from epsilon_dpo.data.shapes.interface import Dropped, Half, Pair, Result
from epsilon_dpo.data.shapes.recognition import Reading, recognise
from epsilon_dpo.data.sources.dataset import Dataset, RowsOnDisk
from epsilon_dpo.data.sources.formats import DataFile, rows_of
from epsilon_dpo.data.sources.params import DatasetSource
from epsilon_dpo.data.sources.places import Place, locate
from epsilon_dpo.data.sources.unpaired import UNPAIRED, Halves
from epsilon_dpo.data.sources.watched import sha256
from epsilon_dpo.pipeline.observability.errors import UserError, printable
from epsilon_dpo.pipeline.stage.files import Messages, Row, dialogue_identity

FIRST_ROWS = 20  # by which a file's shape is recognised


def read_dataset(source: DatasetSource, seed: int, scratch: Path) -> Dataset:
    """The pairs of `source`, in file order; unpaired answers in the order in which their prompts first occur.

    With `eval_share`, a dialogue's place depends on its first user turn and the seed alone; `max_train_pairs` and
    `max_eval_pairs` keep a sample drawn with the seed.

    Args:
        scratch: a folder for the rows and for what `datasets` writes; what is in it goes.

    Raises:
        UserError: nothing is there, a file or a row cannot be read (both are named), or no pair is left.
    """
    dataset = read_any(source, seed, scratch)
    for rows, name, other in ((dataset.train, "training", dataset.eval), (dataset.eval, "evaluation", dataset.train)):
        if rows:
            continue
        if other and source.eval_share is not None:
            raise UserError(
                f"{source.path} gives no {name} pair: fetch.eval_share = {source.eval_share} of the dialogues of "
                f"its {len(other)} pairs leaves none; choose another share, or add data with other first user turns."
            )
        dropped = dataset.facts["dropped"]
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        remedy = "check the data, the splits and fetch.min_margin in params.yaml"
        if UNPAIRED in dropped:
            remedy = (
                "an answer with a label is used only with one of the other label to the same prompt, by method kto, "
                "too: give a good and a bad answer to each prompt"
            )
        raise UserError(f"{source.path} gives no {name} pair (dropped: {why or 'none'}); {remedy}.")
    return dataset


def read_any(source: DatasetSource, seed: int, scratch: Path) -> Dataset:
    """`read_dataset`, but a part may be empty."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    place = locate(source, scratch)
    with _Writer(source, seed, scratch) as writer:
        for spec, key, split in _specs(source):
            writer.read_split(place, spec, key, split)
    limits = {"train": source.max_train_pairs, "eval": source.max_eval_pairs}
    train, held_out = (
        RowsOnDisk(scratch / f"{split}.jsonl", writer.rows[split], limits[split], f"{seed}/{split}")
        for split in ("train", "eval")
    )
    facts = {
        "source": "dataset",
        "path": source.path,
        "revision": source.revision,  # null: local files, identified by `files` alone
        "name": source.name,
        "splits": [spec for spec, _, _ in _specs(source)],
        "shape": writer.shape,
        "files": writer.files,
        "rows_read": writer.read,
        "dropped": dict(sorted(writer.dropped.items())),
        "true_reward": False,
    }
    return Dataset(train, held_out, facts, RowsOnDisk(scratch / "dropped.jsonl", writer.dropped.total()))


def _specs(source: DatasetSource) -> list[tuple[str, str, str | None]]:
    """(split of the data, its key in params.yaml, our split; None: by dialogue)."""
    if source.eval_split is None:
        return [(source.train_split, "fetch.train_split", None)]
    return [
        (source.train_split, "fetch.train_split", "train"),
        (source.eval_split, "fetch.eval_split", "eval"),
    ]


def is_held_out(prompt: Messages, share: float, seed: int) -> bool:
    """Whether a prompt's dialogue is of the `share` for evaluation: by a hash of seed and first user turn, so that no
    list is kept and all turns of a dialogue go to one side."""
    digest = hashlib.sha256(f"{seed}/{json.dumps(dialogue_identity(prompt))}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2.0**64


class _Writer:
    """Rows of the data in, files of pairs out.

    Attributes:
        rows: pairs written, by split.
        dropped: rows that make no pair, by reason.
        files: sha256 of each file, by name.
        shape: name of the shape of all files.
        read: rows read.
    """

    def __init__(self, source: DatasetSource, seed: int, scratch: Path) -> None:
        self.source, self.seed, self.scratch = source, seed, scratch
        self.rows: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.files: dict[str, str] = {}
        self.shape = ""
        self.read = 0
        self._first = ""
        self._stems: dict[str, str] = {}  # a.json and a.jsonl have one: ids tell them apart

    def __enter__(self) -> "_Writer":
        self._open: dict[str, IO[bytes]] = {
            name: (self.scratch / f"{name}.jsonl").open("wb") for name in ("train", "eval", "dropped")
        }
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()

    def read_split(self, place: Place, spec: str, key: str, split: str | None) -> None:
        """All rows of `spec`, their pairs to `split`, or by dialogue if it is None."""
        with Halves(self.scratch) as halves:
            for file, first, last in place.parts(spec, key):
                for identity, result, where in self._results(file, first, last):
                    if isinstance(result, Half):
                        halves.add(identity, result)
                    else:
                        self._take(identity, result, where, spec, split)
            for identity, result in halves.paired():
                self._take(identity, result, place.shown, spec, split)

    def _results(self, file: DataFile, first: int, last: int | None) -> Iterator[tuple[str, Result, str]]:
        self.files[file.name] = sha256(file.path)
        rows = itertools.islice(rows_of(file), first, last)
        head = list(itertools.islice(rows, FIRST_ROWS))
        if not head:
            return
        reading = self._recognise(file, [row for _, row in head])
        stem = file.stem if self._stems.setdefault(file.stem, file.name) == file.name else file.name
        for number, row in tqdm(itertools.chain(head, rows), desc=f"read {printable(file.name)}", unit="row"):
            self.read += 1
            where = f"{file.shown}, row {number}"
            for result in reading.read(row, where, self.source.pairs):
                answers = f"/{result.answers}" if isinstance(result, Pair) and result.answers else ""
                yield f"{stem}/{number}{answers}", result, where

    def _recognise(self, file: DataFile, head: list[Row]) -> Reading:
        """The shape of a file, which must be that of all files before it."""
        reading = recognise(head, file.shown, self.source.columns)
        if self.shape and reading.shape.name != self.shape:
            raise UserError(
                f"{file.shown} reads as {reading.shape.name}, but {self._first} as {self.shape}: files of one dataset "
                "must have one shape; read them as members of a mixture."
            )
        self.shape, self._first = reading.shape.name, self._first or file.shown
        return reading

    def _take(self, identity: str, result: Pair | Dropped, where: str, spec: str, split: str | None) -> None:
        """Write a pair to its split, or the row to dropped.jsonl."""
        dropped = self._written(identity, result, where, split) if isinstance(result, Pair) else result
        if dropped is None:
            return
        self.dropped[dropped.reason] += 1
        entry = {"id": identity, "split": spec, "reason": dropped.reason, "detail": dropped.detail}
        self._open["dropped"].write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")

    def _written(self, identity: str, pair: Pair, where: str, split: str | None) -> Dropped | None:
        """Write the pair to its split; else why it is dropped."""
        if too_close := self._too_close(pair, where):
            return too_close
        row: Row = {"id": identity, "chosen": pair.chosen, "rejected": pair.rejected}
        if pair.margin is not None:
            row["margin"] = pair.margin
        try:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        except UnicodeEncodeError as error:
            return Dropped("not_unicode", f"a text holds half a character ({error.object[error.start]!r})")
        into = split or self._split_of(pair)
        self._open[into].write(line)
        self.rows[into] += 1
        return None

    def _too_close(self, pair: Pair, where: str) -> Dropped | None:
        """Why the pair is dropped for its margin; None if it is not."""
        least = self.source.min_margin
        if least is None:
            return None
        if pair.margin is None:
            raise UserError(f"{where} has no scores, but fetch.min_margin = {least} asks for them; set it to null.")
        if pair.margin < least:
            return Dropped("below_min_margin", f"its margin is {pair.margin:g}, fetch.min_margin is {least:g}")
        return None

    def _split_of(self, pair: Pair) -> str:
        assert self.source.eval_share is not None  # DatasetSource demands it
        return "eval" if is_held_out(pair.chosen[:-1], self.source.eval_share, self.seed) else "train"
