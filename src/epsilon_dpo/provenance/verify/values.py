"""Two versions of a text file, compared by what it holds: JSON by key, rows by step or id, tables by column."""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Json, read_json, read_jsonl
from epsilon_dpo.provenance.verify.findings import NUMBER, ORDER, Place, relative, text_place
from epsilon_dpo.provenance.whence.content import first_difference, shared_start

ABSENT, WHOLE = "nothing", "the value"


def json_places(recorded: Path, remade: Path) -> Iterator[Place]:
    """By dotted key, in the recorded file's order."""
    yield from _leaves(read_json(recorded), read_json(remade))


def jsonl_places(recorded: Path, remade: Path) -> Iterator[Place]:
    """By id, step or line, and key. The same rows in another order are one place; of other rows, the first.

    A number differs relative to the largest of its key in the file: a margin near 0 is rounded as the large ones are.
    """
    before, after = read_jsonl(recorded), read_jsonl(remade)
    names = [[_name(row, n) for n, row in enumerate(rows, 1)] for rows in (before, after)]
    if names[0] != names[1]:
        yield _first_row(*names)
        return
    texts = [list(map(_canonical, rows)) for rows in (before, after)]
    if texts[0] != texts[1] and Counter(texts[0]) == Counter(texts[1]):  # rows without a name
        yield _first_row(*texts)
        return
    largest: dict[str, float] = {}
    for row in [*before, *after]:
        for key, value in _floats(row):
            largest[key] = max(largest.get(key, 0.0), abs(value))
    for name, a, b in zip(names[0], before, after, strict=True):
        for place in _leaves(a, b):
            scale = largest.get(place.where, 0.0)
            if place.relative and math.isfinite(place.relative) and math.isfinite(scale):
                place = replace(place, relative=abs(float(place.recorded) - float(place.remade)) / scale)
            yield replace(place, where=f"{name}, {place.where}")


def _first_row(recorded: list[str], remade: list[str]) -> Place:
    """The first that differs; ORDER where they are the same rows otherwise."""
    n = shared_start(recorded, remade)
    a, b = (rows[n] if n < len(rows) else "no row" for rows in (recorded, remade))
    if Counter(recorded) == Counter(remade):
        return Place(f"line {n + 1}", ORDER, a, b)
    return text_place(f"line {n + 1} of {len(recorded)}", a, f"{b}, of {len(remade)}")


def csv_places(recorded: Path, remade: Path) -> Iterator[Place]:
    """By row and column."""
    before, after = _table(recorded), _table(remade)
    if [row.keys() for row in before[:1]] != [row.keys() for row in after[:1]] or len(before) != len(after):
        columns = [f"{len(rows)} rows of {', '.join(rows[0]) if rows else 'nothing'}" for rows in (before, after)]
        yield text_place("the table", *columns)
        return
    for n, (a, b) in enumerate(zip(before, after, strict=True), 1):
        for column in a:
            yield from _leaves(_number(a[column]), _number(b[column]), f"row {n}, {column}")


def text_places(recorded: Path, remade: Path) -> Iterator[Place]:
    """By line, each as one text; of bytes that are no text, the first that differs."""
    try:
        lines = [path.read_bytes().decode().splitlines() for path in (recorded, remade)]
    except UnicodeDecodeError:
        yield from byte_places(recorded, remade)
        return
    for n, (a, b) in enumerate(zip_longest(*lines, fillvalue=ABSENT), 1):
        if a != b:
            yield text_place(f"line {n}", a, b)


def byte_places(recorded: Path, remade: Path) -> Iterator[Place]:
    """The first byte that differs."""
    byte = first_difference(recorded, remade)
    if byte is not None:
        yield text_place(f"byte {byte:,}", *(f"of {path.stat().st_size:,}" for path in (recorded, remade)))


def readable(places: Any, recorded: Path, remade: Path) -> Iterator[Place]:
    """`places(recorded, remade)`, and by line where a file is not what its name says."""
    try:
        yield from list(places(recorded, remade))
    except (ValueError, UserError):
        yield from text_places(recorded, remade)


def _name(row: Any, line: int) -> str:
    if isinstance(row, dict):
        for key in ("id", "step"):
            if key in row:
                also = f" {row['opponent']}" if "opponent" in row else ""  # a record per answer and opponent
                return f"{'step' if key == 'step' else 'row'} {row[key]}{also}"
    return f"line {line}"


def _leaves(recorded: Any, remade: Any, where: str = "") -> Iterator[Place]:
    """The values that differ in two JSON values, by dotted key; `where`: that of the two themselves."""
    if isinstance(recorded, dict) and isinstance(remade, dict):
        for key in [*recorded, *(key for key in remade if key not in recorded)]:
            yield from _leaves(recorded.get(key, ABSENT), remade.get(key, ABSENT), _below(where, str(key)))
    elif isinstance(recorded, list) and isinstance(remade, list) and len(recorded) == len(remade):
        for n, (a, b) in enumerate(zip(recorded, remade, strict=True)):
            yield from _leaves(a, b, _below(where, str(n)))
    elif isinstance(recorded, float) and isinstance(remade, float):
        amount = relative(recorded, remade)
        if amount or math.copysign(1, recorded) != math.copysign(1, remade):
            yield Place(where or WHOLE, NUMBER, repr(recorded), repr(remade), amount)
    elif recorded != remade or type(recorded) is not type(remade):
        yield text_place(where or WHOLE, _plain(recorded), _plain(remade))


def _floats(value: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """The floats in a JSON value, by the key that `_leaves` names."""
    if isinstance(value, dict):
        yield from (found for key, item in value.items() for found in _floats(item, _below(where, str(key))))
    elif isinstance(value, list):
        yield from (found for n, item in enumerate(value) for found in _floats(item, _below(where, str(n))))
    elif isinstance(value, float):
        yield where or WHOLE, value


def _below(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _canonical(value)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _table(path: Path) -> list[Json]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _number(text: str | None) -> Any:
    """A float where the text is one and no whole number, else the text."""
    try:
        return float(text) if text is not None and not text.lstrip("-").isdigit() else text
    except ValueError:
        return text
