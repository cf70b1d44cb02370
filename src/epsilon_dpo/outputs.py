"""Writing what DVC hashes: the same bytes for the same content, and never half of it."""

import csv
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from epsilon_dpo.errors import UserError


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` only if the block ends without an exception.

    DVC removes a stage's outs before it runs, so `target` holds nothing that would be lost.
    """
    partial = target.parent / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """`content` as sorted, indented JSON; NaN and infinities are refused, since no JSON reader has to accept them."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """One row a line, keys in the order given."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str] | None = None) -> None:
    """`rows` as a table; an absent value is empty.

    Args:
        columns: None: the union of the rows' keys, in order of first appearance; then no rows give no header either.
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
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                raise UserError(
                    f"{path}, line {number} is not JSON; delete the file and run `dvc repro` again."
                ) from None
    return rows
