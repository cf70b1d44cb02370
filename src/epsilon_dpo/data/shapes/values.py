"""Single values of a row: what kind they are, and as text, number, verdict or messages of ours.

Nothing is flattened in silence: tool calls, images and reasoning kept beside the content are refused, as are roles that
nobody here knows.
"""

import math
import re
from typing import Any

from epsilon_dpo.data.shapes.interface import Missing, Refused, Unreadable
from epsilon_dpo.pipeline.stage.files import Messages, Row

HH_ROLES = {"Human": "user", "Assistant": "assistant"}
HEADER = re.compile(r"\n\n(Human|Assistant): ?")
BEGINS_WITH_HEADER = re.compile(r"\s*Human:|\n\nAssistant:")
ROLES = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "chatbot": "assistant", "model": "assistant",
    "system": "system",
}  # fmt: skip
TOOL_ROLES = {"tool", "function", "observation", "function_call", "tool_call", "tool_response", "ipython"}
BESIDE_CONTENT = ("tool_calls", "function_call", "tool_call_id", "images", "reasoning_content", "thinking")
WRITTEN_MESSAGES = re.compile(r"""\s*\[\s*\{\s*\\?['"](role|content|from|value)\\?['"]\s*:""")
# Columns that say where a row is from or what it is about, or tell of one of its answers.
ABOUT = re.compile(
    r"(.*_)?(id|idx|index|uuid|hash|url|source|dataset|subset|split|license|category|domain|type|lang|language|model"
    r"|name|date|time|timestamp|version)|uid|origin|config|task|topic|tags?|annotator|(chosen|rejected)[_-].*"
)
NO_WORDS = re.compile(r"[-+\d.,:eE%\s]*|true|false|null|none|nan", re.IGNORECASE)  # csv has texts only
KEYS = (("role", "content"), ("from", "value"))


def kind(value: Any) -> str:
    """null, flag, number, text, transcript, message(s), object(s), texts, numbers, list, or another type's name."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "transcript" if BEGINS_WITH_HEADER.match(value) else "text"
    if isinstance(value, dict):
        return "message" if any(set(keys) <= set(value) for keys in KEYS) else "object"
    if isinstance(value, list):
        inner = {kind(entry) for entry in value} - {"null"}
        if inner == {"message"}:
            return "messages"
        if inner and inner <= {"object", "message"}:
            return "objects"
        names = {"text": "texts", "transcript": "texts", "number": "numbers"}
        found = {names.get(one, "list") for one in inner}
        return found.pop() if len(found) == 1 else "list"
    return f"unreadable {value.type}" if isinstance(value, Unreadable) else type(value).__name__


def may_be_a_prompt(column: str, value: Any) -> bool:
    """Whether a column that no shape knows could hold what the answers answer: a text or messages."""
    if ABOUT.fullmatch(column.strip().lower()):
        return False
    return not NO_WORDS.fullmatch(value) if isinstance(value, str) else kind(value) in ("message", "messages")


def text(value: Any, name: str) -> str:
    """`value` as it is; a number among texts is none of them, since the data does not say how it was spelt."""
    if value is None or isinstance(value, bool | int | float):
        raise Missing(f"{name} is {describe(value)}", "null" if value is None else "not_text")
    if not isinstance(value, str):
        raise Refused(f"{name} is {describe(value)}, expected text")
    return value


def number(value: Any, name: str) -> float:
    """A finite number; text that spells one counts, since csv has nothing else."""
    if value is None or value == "":
        raise Missing(f"{name} is null")
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
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


def weight_of(row: Row) -> float | None:
    """The pair's weight; None where the row has none.

    Raises:
        Refused: it is negative.
    """
    found = optional_number(row, "weight")
    if found is not None and found < 0.0:
        raise Refused(f"weight is {found}, expected at least 0")
    return found


def flag(value: Any, name: str) -> bool:
    """True or false; 1 and 0 count, and both as text."""
    if value is None or value == "":
        raise Missing(f"{name} is null")
    spelt = str(value).strip().lower()
    if isinstance(value, list | dict) or spelt not in {"true", "false", "1", "0", "1.0", "0.0"}:
        raise Refused(f"{name} is {describe(value)}, expected true or false")
    return spelt in {"true", "1", "1.0"}


def spelt(verdict: object) -> str:
    """A verdict as it is compared; empty for one that is no text and no number."""
    return "" if isinstance(verdict, bool | list | dict) else str(verdict).strip().lower().removesuffix(".0")


def named(verdict: object, spellings: tuple[set[str], set[str]], ties: set[str], name: str) -> float:
    """1.0 if the verdict names the first answer, -1.0 the second, 0.0 for a tie.

    Raises:
        Refused: it names neither; Missing: it is null.
    """
    if verdict is None or verdict == "":
        raise Missing(f"{name} is null")
    for lead, spelled in ((1.0, spellings[0]), (-1.0, spellings[1]), (0.0, ties)):
        if spelt(verdict) in spelled:
            return lead
    raise Refused(
        f"{name} is {describe(verdict)}, which names neither answer ({', '.join(sorted(spellings[0]))} or "
        f"{', '.join(sorted(spellings[1]))}) nor a tie; map the columns with fetch.columns to the shape that fits"
    )


def turn(value: Any, name: str) -> dict[str, str]:
    """One message of ours, whatever the two keys are called and the roles are spelt like."""
    if not isinstance(value, dict):
        raise Refused(f'{name} is {describe(value)}, expected {{"role": text, "content": text}}')
    keys = next((keys for keys in KEYS if set(keys) <= set(value)), None)
    if keys is None:
        raise Refused(f"{name} has the keys {', '.join(map(str, value))}, expected role and content, or from and value")
    beside = [key for key in BESIDE_CONTENT if value.get(key)]
    if beside:
        raise Refused(f"{name} has {beside[0]}: not supported, and without it the dialogue would be another")
    role, content = value[keys[0]], value[keys[1]]
    known = ROLES.get(str(role).strip().lower())
    if known is None:
        if str(role).strip().lower() in TOOL_ROLES:
            raise Refused(f"{name} is by {role!r}: tool calls are not supported; remove such dialogues")
        raise Refused(f"{name} is by {role!r}, which is no role known here ({', '.join(ROLES)}); rename it in the data")
    if isinstance(content, list):
        content = _only_part(content, name)
    return {"role": known, "content": text(content, f"the content of {name}")}


def _only_part(parts: list[Any], name: str) -> Any:
    """The text of a content that is a list of one text."""
    if len(parts) == 1 and isinstance(parts[0], dict) and parts[0].get("type") == "text":
        return parts[0].get("text")
    kinds = sorted({str(part.get("type")) if isinstance(part, dict) else describe(part) for part in parts})
    raise Refused(
        f"the content of {name} is a list of {len(parts)} parts ({', '.join(kinds)}): not supported; "
        "only one text a turn is, no images and no tool calls"
    )


def messages(value: Any, name: str) -> Messages:
    """A list of messages, in order."""
    entries = list_of(value, name, "messages")
    return [turn(entry, f"turn {number} of {name}") for number, entry in enumerate(entries, start=1)]


def prompt(value: Any, name: str) -> Messages:
    """A prompt as messages: text is one user turn, a transcript that ends in "Assistant:" its turns before that."""
    if isinstance(value, str) and BEGINS_WITH_HEADER.match(value) and value.rstrip().endswith("\n\nAssistant:"):
        return transcript(value, name)[:-1]
    if isinstance(value, list):
        return messages(value, name)
    return [{"role": "user", "content": text(value, name)}]


def answer(value: Any, name: str) -> Messages:
    """An answer as messages: text is one assistant turn."""
    if isinstance(value, list):
        return messages(value, name)
    if isinstance(value, dict):
        return [turn(value, name)]
    return [{"role": "assistant", "content": text(value, name)}]


def transcript(value: Any, name: str) -> Messages:
    """The turns of a transcript as Anthropic-HH writes them."""
    found = text(value, name)
    try:
        return parse_transcript(found if found.startswith("\n\n") else "\n\n" + found.lstrip())
    except ValueError as error:
        raise Refused(f"{name} {error}, as other rows do") from None


def parse_transcript(text: str) -> Messages:
    """The turns of `text` as messages, white space around each stripped.

    Raises:
        ValueError: `text` does not begin with a role header.
    """
    before, *parts = HEADER.split(text)
    if before.strip() or not parts:
        raise ValueError("does not begin with '\\n\\nHuman: ' or '\\n\\nAssistant: '")
    return [
        {"role": HH_ROLES[header], "content": content.strip()}
        for header, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def list_of(value: Any, name: str, of: str) -> list[Any]:
    """`value` if it is a list; `of` says for the message what it holds."""
    if value is None:
        raise Missing(f"{name} is null")
    if not isinstance(value, list):
        raise Refused(f"{name} is {describe(value)}, expected a list of {of}")
    return value


def mapping(value: Any, name: str) -> dict[str, Any]:
    """`value` if it is a mapping."""
    if value is None:
        raise Missing(f"{name} is null")
    if not isinstance(value, dict):
        raise Refused(f"{name} is {describe(value)}, expected a mapping")
    return value


def describe(value: Any) -> str:
    """A value for a message: what it is, and its beginning."""
    if value is None:
        return "null"
    shown = repr(value)
    return f"{kind(value)} {shown if len(shown) <= 60 else shown[:57] + '...'}"
