"""The rows of a data file, one after the other: JSON (lines or an array), csv, tsv, parquet, Arrow.

Each format is read by its own parser and not by `datasets`, whose readers infer a type per column: they make dates of
texts such as "2024-01-01" and nulls of "None" and "NA" in csv, and what they cannot read they do not name the line of.
Memory: one row of text, or one batch of a row group, whatever the file's size.
"""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from epsilon_dpo.data.sources.columnar import columnar_rows, count_parquet
from epsilon_dpo.data.sources.raw import OPEN, text_of
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row

FORMATS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
FORMATS |= {".arrow": "arrow"}
CHUNK = 1 << 20  # characters of a JSON array that are read at a time
TOO_MUCH = "has a number of thousands of digits, or lists within lists too deep to be read; remove it."
ROW_LIMIT = 64 << 20  # characters of a JSON row or of a cell; a decompressed file may hold a thousand times its size
TOO_LONG = "is longer than {} million characters, as no dialogue is; remove it."
SEPARATORS = (";", "\t", "|", ",")  # of tables, as Excel writes in one language or another
SPACE = re.compile(r"\s*")
UNFINISHED = 16  # characters before the end of what was read, within which a literal, number or escape may go on


@dataclass(frozen=True)
class DataFile:
    """One file of a dataset.

    Attributes:
        shown: its name in messages.
        name: within the dataset; without its suffixes it begins the rows' ids.
    """

    path: Path
    shown: str
    name: str

    def __post_init__(self) -> None:
        """Raises: UserError: the name, with which ids begin, is no Unicode, as one from a disk of another encoding."""
        try:
            self.name.encode()
        except UnicodeEncodeError:
            raise UserError(f"{self.shown!r} has a name that is not UTF-8; rename the file.") from None

    @property
    def stem(self) -> str:
        """`name` without the suffixes of compression and format."""
        return str(Path(self.name).with_name(uncompressed(Path(self.name)).stem))


def uncompressed(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in OPEN else path


def format_of(path: Path) -> str | None:
    """json, csv, tsv, parquet or arrow, by the name; None for another file."""
    return FORMATS.get(uncompressed(path).suffix.lower())


def rows_of(file: DataFile) -> Iterator[tuple[int, Row]]:
    """(number, row) from 1; in JSON lines the number is that of the line.

    Raises:
        UserError: the file, or the row that is named, cannot be read.
    """
    found = format_of(file.path)
    if found in ("parquet", "arrow"):
        yield from enumerate(columnar_rows(file.path, file.shown, found), start=1)
        return
    with text_of(file.path, file.shown) as text:
        if found == "json":
            yield from _from_json(text, file.shown)
        else:
            yield from _from_csv(text, file.shown, "\t" if found == "tsv" else ",")


def count_rows(file: DataFile) -> int:
    """How many rows `rows_of` gives."""
    if format_of(file.path) == "parquet":
        return count_parquet(file.path, file.shown)
    return sum(1 for _ in rows_of(file))


class Twice(ValueError):
    """An object has a key two times, of which Python would keep the last."""


def _object(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise Twice(f"has {next(name for name in names if names.count(name) > 1)!r} twice; name it once.")
    return found


# NaN, which is no JSON, is what pandas and Python write for an empty cell.
DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=lambda name: None if name == "NaN" else float(name)
)


def _from_json(text: IO[str], shown: str) -> Iterator[tuple[int, Row]]:
    buffer = text.read(CHUNK)
    read = _elements if buffer.lstrip().startswith("[") else _lines
    number = 0
    for number, row in read(text, buffer, shown):
        if not isinstance(row, dict):
            what = f"{type(row).__name__} {str(row)[:40]!r}"
            raise UserError(f"{shown}, row {number} is {what}, expected an object with named columns.")
        yield number, row
    if number == 0:
        raise UserError(f"{shown} holds no row; download or write it again.")


def _lines(text: IO[str], buffer: str, shown: str) -> Iterator[tuple[int, Any]]:
    """One value a line; only "\\n" ends a line, since other separators occur inside texts."""
    number = 0
    while buffer:
        whole = buffer.rfind("\n") + 1
        while not buffer.endswith("\n") and (more := text.readline(CHUNK)):  # newline="": it may be another line end
            buffer += more
            if len(buffer) - whole > ROW_LIMIT:
                row = number + 1 + buffer.count("\n", 0, whole)
                raise UserError(f"{shown}, row {row} {TOO_LONG.format(ROW_LIMIT >> 20)}")
        for line in buffer.removesuffix("\n").split("\n"):
            number += 1
            if line.strip():
                try:
                    value = DECODER.decode(line)
                except json.JSONDecodeError as error:
                    raise UserError(_not_json(line, number, shown, error)) from None
                except (ValueError, RecursionError) as error:
                    raise UserError(
                        f"{shown}, row {number} {error if isinstance(error, Twice) else TOO_MUCH}"
                    ) from None
                yield number, value
        buffer = text.read(CHUNK)


def _not_json(line: str, number: int, shown: str, error: json.JSONDecodeError) -> str:
    if number == 1 and line.strip() == "{":
        return f"{shown} is one JSON object over several lines; expected an array of rows, or one object a line."
    return (
        f"{shown}, row {number} is not JSON ({error.msg} at character {error.pos + 1}); correct the line or remove it."
    )


def _elements(text: IO[str], buffer: str, shown: str) -> Iterator[tuple[int, Any]]:
    """The values of a JSON array, of which no more is held than a chunk and a row."""
    number, place = 0, buffer.index("[") + 1
    while True:
        place = start = _after_space(buffer, place)
        if buffer.startswith("]", place):
            if (buffer[place + 1 :] + text.read(CHUNK)).strip():
                raise UserError(f"{shown} goes on after the end of its array (row {number}); it must hold one array.")
            return
        if number and place < len(buffer):
            if buffer[place] != ",":
                raise UserError(
                    f"{shown}, row {number} is not followed by a comma or the array's end; correct it there."
                )
            start = _after_space(buffer, place + 1)
        try:
            value, place = DECODER.raw_decode(buffer, start)
        except json.JSONDecodeError as error:
            if len(buffer) - place > ROW_LIMIT:
                raise UserError(f"{shown}, row {number + 1} {TOO_LONG.format(ROW_LIMIT >> 20)}") from None
            sure = error.pos < len(buffer) - UNFINISHED and not error.msg.startswith("Unterminated")
            if sure or not (more := text.read(max(CHUNK, len(buffer) - place))):
                reason = error.msg if sure else f"{error.msg}; the file may be cut off there"
                raise UserError(
                    f"{shown}, row {number + 1} is not JSON ({reason}); correct it, or write the file again."
                ) from None
            buffer, place = buffer[place:] + more, 0
            continue
        except (ValueError, RecursionError) as error:
            raise UserError(f"{shown}, row {number + 1} {error if isinstance(error, Twice) else TOO_MUCH}") from None
        number += 1
        yield number, value


def _after_space(buffer: str, place: int) -> int:
    return SPACE.match(buffer, place).end()  # type: ignore[union-attr]


def _bounded_lines(text: IO[str], shown: str) -> Iterator[str]:
    """Raises: UserError: a line has more characters than a row may have, of which no part is handed on."""
    for number, line in enumerate(iter(partial(text.readline, ROW_LIMIT), ""), start=1):
        if len(line) == ROW_LIMIT and not line.endswith("\n"):
            raise UserError(f"{shown}, line {number} {TOO_LONG.format(ROW_LIMIT >> 20)}")
        yield line


def _from_csv(text: IO[str], shown: str, separator: str) -> Iterator[tuple[int, Row]]:
    """Every value is text, "" where a cell is empty."""
    csv.field_size_limit(ROW_LIMIT)
    table = csv.reader(_bounded_lines(text, shown), delimiter=separator, strict=True)
    number = 0
    try:
        names = next(table, [])
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not names:
            what = f"two columns {twice[0]!r}" if twice else "no header"
            raise UserError(f"{shown} has {what}; name each column once.")
        if other := len(names) == 1 and next((sign for sign in SEPARATORS if sign in names[0]), ""):
            raise UserError(
                f"{shown} has one column, {names[0]!r}, whose name holds {other!r}: the columns of .csv are separated "
                "by a comma and those of .tsv by a tab; save it so, or rename the file."
            )
        for number, cells in enumerate((cells for cells in table if cells), start=1):
            if len(cells) != len(names):
                raise UserError(
                    f"{shown}, row {number} has {len(cells)} cells, but the header names {len(names)} columns; text "
                    'with separators or line breaks must stand in "quotes".'
                )
            yield number, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{shown}, row {number + 1} cannot be read ({error}); correct its quotes.") from None
    if number == 0:
        raise UserError(f"{shown} holds a header and no row; download or write it again.")
