"""Single values of a row: what kind they are, and as text, number or verdict.

NaN is null: pandas writes it for an empty cell, whatever else is in the column.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from epsilon_dpo.data.shapes.interface import Missing, Refused, Unreadable
from epsilon_dpo.pipeline.stage.files import Row

BEGINS_WITH_HEADER = re.compile(r"\s*Human:|(?:\r?\n){2}Assistant:")
# A list of messages; or one message, of which a text that begins like a JSON answer is not yet one.
WRITTEN_MESSAGES = re.compile(
    r"""\s*(\[\s*\{\s*\\?['"](role|content|from|value)\\?['"]\s*:"""
    r"""|\{\s*['"](role|from)['"]\s*:\s*['"]\w+['"]\s*,\s*['"](content|value)['"]\s*:)"""
)
# Columns that say where a row is from or what it is about, or tell of one of its answers.
ABOUT = re.compile(
    r"(.*_)?(id|idx|index|uuid|hash|url|source|dataset|subset|split|license|category|domain|type|lang|language|model"
    r"|name|date|time|timestamp|version)|uid|origin|config|task|topic|tags?|annotator|(chosen|rejected)[_-].*"
)
NO_WORDS = re.compile(r"[-+\d.,:eE%\s]*|true|false|null|none|nan", re.IGNORECASE)  # csv has texts only
# The kind of a list is the first that allows the kinds of all its entries.
LISTS = {
    "messages": {"message"},
    "objects": {"message", "object"},
    "texts": {"text", "transcript"},
    "numbers": {"number"},
}
KEYS = (("role", "content"), ("from", "value"), ("from", "content"))


def is_null(value: Any) -> bool:
    """Whether there is no value: None, or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def written_texts(value: str) -> list[str | None] | None:
    """The texts of a text that is a list of them, and of nulls, in JSON; None if it is no such list."""
    if not value.lstrip().startswith("["):
        return None
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(one is None or isinstance(one, str) for one in found):
        return None
    return found


def kind(value: Any) -> str:
    """null, flag, number, text, transcript, message(s), object(s), texts, numbers, list, or another type's name."""
    if is_null(value):
        return "null"
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int | float | Decimal):  # parquet has decimals
        return "number"
    if isinstance(value, str):
        return "transcript" if BEGINS_WITH_HEADER.match(value) else "text"
    if isinstance(value, dict):
        return "message" if any(set(keys) <= set(value) for keys in KEYS) else "object"
    if isinstance(value, list):
        inner = {"list" if isinstance(entry, list) else kind(entry) for entry in value} - {"null"}
        return next((name for name, kinds in LISTS.items() if inner and inner <= kinds), "list")
    return f"unreadable {value.type}" if isinstance(value, Unreadable) else type(value).__name__


def kinds_of(rows: Sequence[Row]) -> dict[str, str]:
    """The kind that most values of each column have that say something; "null" if none does.

    Not the first one's: an odd first row would decide for all, and be the only one that is read as it is meant.
    """
    found: dict[str, Counter[str]] = {}
    for row in rows:
        for name, value in row.items():
            kinds, this = found.setdefault(name, Counter()), "null" if value == [] else kind(value)
            if this != "null":
                kinds[this] += 1
    return {name: max(kinds, key=kinds.__getitem__, default="null") for name, kinds in found.items()}


def may_be_a_prompt(column: str, value: Any) -> bool:
    """Whether a column that no shape knows could hold what the answers answer: a text or messages."""
    if ABOUT.fullmatch(column.strip().lower()):
        return False
    return not NO_WORDS.fullmatch(value) if isinstance(value, str) else kind(value) in ("message", "messages")


def text(value: Any, name: str) -> str:
    """`value` as it is; a number among texts is none of them, since the data does not say how it was spelt."""
    if is_null(value) or isinstance(value, bool | int | float | Decimal):
        raise Missing(f"{name} is {describe(value)}", "null" if is_null(value) else "not_text")
    if not isinstance(value, str):
        raise Refused(f"{name} is {describe(value)}, expected text")
    return value


def number(value: Any, name: str) -> float:
    """A finite number; text that spells one counts, since csv has nothing else."""
    if value is None or value == "":
        raise Missing(f"{name} is null")
    try:
        found = float(value) if isinstance(value, int | float | Decimal | str) and not isinstance(value, bool) else None
    except ValueError:
        found = None
    except OverflowError:  # an integer of 400 digits, as the text of one gives
        found = math.inf
    if found is None:
        raise Refused(f"{name} is {describe(value)}, expected a number")
    if not math.isfinite(found):
        raise Missing(f"{name} is {found}")
    return found


def optional_number(row: Row, name: str) -> float | None:
    """The number in a column that may be absent, null, empty (csv's null) or NaN (pandas' null): then None."""
    value = row.get(name)
    empty = value is None or (isinstance(value, str | float) and str(value).strip().lower() in {"", "nan"})
    return None if empty else number(value, name)


def gap(first: float, second: float) -> float:
    """The first of two scores minus the second.

    Raises:
        Missing: they are so far apart that no number says how far.
    """
    found = first - second
    if not math.isfinite(found):
        raise Missing(f"the margin of {first:g} and {second:g} is {found}")
    return found


def flag(value: Any, name: str) -> bool:
    """True or false; 1 and 0 count, and both as text."""
    if is_null(value) or value == "":
        raise Missing(f"{name} is null")
    plain = float(value) if isinstance(value, Decimal) else value  # 1.00 is 1
    spelt = "" if isinstance(value, list | dict) else str(plain).strip().lower()
    if spelt not in {"true", "false", "1", "0", "1.0", "0.0"}:
        raise Refused(f"{name} is {describe(value)}, expected true or false")
    return spelt in {"true", "1", "1.0"}


def spelt(verdict: object) -> str:
    """A verdict as it is compared; empty for one that is no text and no number."""
    verdict = float(verdict) if isinstance(verdict, Decimal) else verdict  # 1.00 is 1
    return "" if isinstance(verdict, bool | list | dict) else str(verdict).strip().lower().removesuffix(".0")


def named(verdict: object, spellings: tuple[set[str], set[str]], ties: set[str], name: str) -> float:
    """1.0 if the verdict names the first answer, -1.0 the second, 0.0 for a tie.

    Raises:
        Refused: it names neither; Missing: it is null.
    """
    if is_null(verdict) or verdict == "":
        raise Missing(f"{name} is null")
    for lead, spelled in ((1.0, spellings[0]), (-1.0, spellings[1]), (0.0, ties)):
        if spelt(verdict) in spelled:
            return lead
    raise Refused(
        f"{name} is {describe(verdict)}, which names neither answer ({', '.join(sorted(spellings[0]))} or "
        f"{', '.join(sorted(spellings[1]))}) nor a tie; map the columns with fetch.columns to the shape that fits"
    )


def list_of(value: Any, name: str, of: str) -> list[Any]:
    """`value` if it is a list; `of` says for the message what it holds."""
    if is_null(value):
        raise Missing(f"{name} is null")
    if not isinstance(value, list):
        raise Refused(f"{name} is {describe(value)}, expected a list of {of}")
    return value


def mapping(value: Any, name: str) -> dict[str, Any]:
    """`value` if it is a mapping."""
    if is_null(value):
        raise Missing(f"{name} is null")
    if not isinstance(value, dict):
        raise Refused(f"{name} is {describe(value)}, expected a mapping")
    return value


def describe(value: Any) -> str:
    """A value for a message: what it is, and its beginning."""
    if is_null(value):
        return "null"
    try:
        shown = repr(value)
    except RecursionError:
        shown = "of lists within lists"
    return f"{kind(value)} {shown if len(shown) <= 60 else shown[:57] + '...'}"
