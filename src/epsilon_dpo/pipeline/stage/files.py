"""Writing what DVC hashes: the same bytes for the same content, and never half of it."""

import csv
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from epsilon_dpo.pipeline.observability.errors import UserError

Json = dict[str, Any]  # a JSON object
Row = Json  # a line of a .jsonl file
Messages = list[dict[str, str]]  # a dialogue, as rows hold it: {"role", "content"} each


def prompt_identity(prompt: Messages) -> Messages:
    """`prompt` without the white space around each turn's text: two prompts are the same if this is equal.

    Many chat templates (Gemma's, Llama 3's) write no such space, so that to the model these prompts are one.
    """
    return [{**turn, "content": turn["content"].strip()} for turn in prompt]


def dialogue_identity(prompt: Messages) -> Messages:
    """What a dialogue that is stored at several of its turns begins with at each: its first user turn, as
    `prompt_identity` has it. Of a prompt of one user turn it is that prompt; a system turn does not count.

    Without a user turn the entire prompt.
    """
    first = next((turn for turn in prompt if turn["role"] == "user"), None)
    return prompt_identity(prompt if first is None else [first])


@contextmanager
def atomic_folder(target: Path, partial: Path | None = None) -> Iterator[Path]:
    """A folder to fill, which becomes `target` only if the block ends without an exception.

    DVC removes a stage's outs before it runs, so `target` holds nothing that would be lost.

    Args:
        partial: path of the folder until then, on the file system of `target`; None: beside `target`.

    Raises:
        UserError: `partial` is on another file system, or somebody removed it while the block ran.
    """
    if partial is None:
        partial = target.parent / f".{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    else:
        _make_movable(partial, target)
    made = os.open(partial, os.O_RDONLY)
    try:
        yield partial
        if not partial.exists() or not os.path.samestat(os.stat(partial), os.fstat(made)):  # some writers make folders
            raise UserError(f"{partial} was removed while it was being filled; run this again.")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        os.close(made)
        shutil.rmtree(partial, ignore_errors=True)


def _make_movable(partial: Path, target: Path) -> None:
    """Make `partial` by moving it there from beside `target`: what cannot move back later is refused now."""
    beside = target.parent / f".{partial.name}"
    beside.mkdir(parents=True, exist_ok=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        beside.rename(partial)
    except OSError as error:
        beside.rmdir()
        if error.errno != errno.EXDEV:
            raise
        raise UserError(
            f"{partial.parent} and {target.parent} lie on different file systems, between which a folder cannot move "
            "in one step; put both on one."
        ) from None


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` only if the block ends without an exception, and takes nobody's place.

    For a folder that the user names: what is there, also what came there while the block ran, is somebody's.

    Raises:
        UserError: something is at `target`, or the disk refuses what is written.
    """
    taken = f"{target} exists; name a folder to make."
    if os.path.lexists(target):
        raise UserError(taken)
    partial = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    absent = [parent for parent in target.absolute().parents if not parent.exists()]
    try:
        partial.mkdir(parents=True)
        yield partial
        _take_place(partial, target, taken)
    except OSError as error:
        raise UserError(f"{target} is not made: {error}.") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in absent:
            with suppress(OSError):  # which holds `target` now, or what somebody put there
                parent.rmdir()


def _take_place(partial: Path, target: Path, taken: str) -> None:
    """Rename `partial`. A rename alone would take the place of an empty folder, which is somebody's too."""
    try:
        target.mkdir()
    except FileExistsError:
        raise UserError(taken) from None
    try:
        partial.rename(target)
    except OSError:  # what a rename does to a folder that is not empty: somebody has put something there
        with suppress(OSError):
            target.rmdir()
        raise


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A file to write, which becomes `path` if the block ends without an exception: a kill or a full disk leaves what
    was there before."""
    partial = path.with_name(f"{path.name}.partial")
    yield partial
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, content: Any) -> None:
    """`content` as sorted, indented JSON; NaN and infinities are refused, since no JSON reader has to accept them."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """One row a line, keys in the order given."""
    with path.open("w", encoding="utf-8") as file:
        append_jsonl(file, rows)


def append_jsonl(file: TextIO, rows: Iterable[Any]) -> None:
    """The same, to an open file."""
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str] | None = None) -> None:
    """`rows` as a table; an absent value is empty.

    Args:
        columns: names in the header; None: the union of the rows' keys, in order of first appearance; then no rows give
            no header either.
    """
    rows = list(rows)
    names = columns or list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def read_jsonl(path: Path) -> list[Any]:
    """The rows of `path`.

    Raises:
        UserError: a line is not JSON: the file was changed by hand or cut off.
    """
    return list(JsonlFile(path))


def count_lines(path: Path) -> int:
    """Rows of a file of JSON lines, without a look at them."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


class JsonlFile:
    """The rows of a file, read anew by each iteration and never all in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Any]:
        """Raises: UserError: as `read_jsonl`."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = json.loads(line.decode("utf-8"))
                except (json.JSONDecodeError, UnicodeDecodeError):
                    raise UserError(
                        f"{self.path}, line {number} is not JSON; delete the file and run `dvc repro` again."
                    ) from None
                yield row
