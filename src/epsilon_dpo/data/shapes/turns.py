"""Dialogues: messages of whatever spelling, plain texts and Anthropic-HH's transcripts as messages of ours.

Nothing is flattened in silence: tool calls, images and reasoning kept beside the content are refused, as are roles that
nobody here knows.
"""

import re
from typing import Any

from epsilon_dpo.data.shapes.interface import Missing, Refused
from epsilon_dpo.data.shapes.values import BEGINS_WITH_HEADER, KEYS, describe, is_null, list_of, text
from epsilon_dpo.pipeline.stage.files import Messages, Row

HH_ROLES = {"Human": "user", "Assistant": "assistant"}
HEADER = re.compile(r"(?:\r?\n){2}(Human|Assistant): ?")
HEADER_OF_A_LINE = re.compile(r"\n[ \t]*(Human|Assistant):")  # some of Anthropic-HH's answers begin with one
OPEN_END = re.compile(r"(?:\r?\n){2}Assistant:\s*$")
PART_KEYS = ("text", "value")  # of the text in a part of a content; LLaMA-Factory's v1 files have the second
# Between the turns of HelpSteer2 and of NeMo-Aligner's template, which also has one for the system turn and an end.
EXTRA_ID = re.compile(r"(?:^|\r?\n|(?<=\n))<extra_id_1>(User|Assistant)(?:\r?\n|$)")
NEMO_SYSTEM = re.compile(r"\s*<extra_id_0>System(?:\r?\n|$)")
NEMO_END = re.compile(r"(?:^|\r?\n)<extra_id_1>\s*$")
PROMPTER = "<|prompter|>"  # with which Open-Assistant's template begins
# What chat templates write first; only at the beginning, since texts about such tokens are data.
RENDERED = re.compile(
    r"\s*(<\|im_start\|>|<\|start_header_id\|>|<\|begin_of_text\|>|(?:<s>\s*)?\[INST\]|(?:<bos>\s*)?<start_of_turn>)"
)
FLATTENED = re.compile(r"\s*User:.*^[ \t]*Assistant:", re.MULTILINE | re.DOTALL)
ROLES = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "chatbot": "assistant", "model": "assistant",
    "system": "system",
}  # fmt: skip
TOOL_ROLES = {"tool", "function", "observation", "function_call", "tool_call", "tool_response", "ipython"}
MEDIA = ("images", "image", "videos", "video", "audios", "audio", "image_path", "video_path", "audio_path")
UNSUPPORTED = (*MEDIA, "tools", "functions")  # of a row or a turn
BESIDE_CONTENT = (
    *("tool_calls", "tool_call_id", "function_call", "function_calls", "reasoning_content", "reasoning", "thinking"),
    *UNSUPPORTED,
)


def first_with_value(row: Row, names: tuple[str, ...]) -> str | None:
    """The first of `names` that has a value in `row`; null, what is empty and "[]", as csv writes it, are none."""
    return next((name for name in names if row.get(name) and not is_null(row[name]) and row[name] != "[]"), None)


def turn(value: Any, name: str) -> dict[str, str]:
    """One message of ours, whatever the two keys are called and the roles are spelt like."""
    if is_null(value):
        raise Missing(f"{name} is null")
    if not isinstance(value, dict):
        raise Refused(f'{name} is {describe(value)}, expected {{"role": text, "content": text}}')
    there = [keys for keys in KEYS if keys[0] in value and keys[1] in value]
    if not there:
        raise Refused(f"{name} has the keys {', '.join(map(str, value))}, expected role and content, or from and value")
    keys = next((keys for keys in there if not _says_nothing(value[keys[1]])), there[0])  # parquet fills all with nulls
    beside = first_with_value(value, BESIDE_CONTENT)
    if beside:
        raise Refused(f"{name} has {beside}: not supported, and the dialogue would change without it")
    role, content = value[keys[0]], value[keys[1]]
    known = ROLES.get(_spelled(role))
    if known is None:
        if _spelled(role) in TOOL_ROLES:
            raise Refused(f"{name} is by {role!r}: tool calls are not supported; remove such dialogues")
        who = repr(role) if isinstance(role, str) else describe(role)
        raise Refused(f"{name} is by {who}, which is no role known here ({', '.join(ROLES)}); rename it in the data")
    if isinstance(content, list):
        content = _only_part(content, name)
    return {"role": known, "content": text(content, f"the content of {name}")}


def _spelled(role: Any) -> str:
    return role.strip().lower() if isinstance(role, str) else ""


def _only_part(parts: list[Any], name: str) -> Any:
    """The text of a content that is a list of one text."""
    if _is_one_text(parts):
        found = [parts[0][key] for key in PART_KEYS if key in parts[0]]
        if not found:
            raise Refused(f"the content of {name} has the keys {', '.join(parts[0])}, expected type and text")
        return next((one for one in found if not is_null(one)), None)
    types = [part.get("type") if isinstance(part, dict) else part for part in parts]
    kinds = sorted({one if isinstance(one, str) else describe(one) for one in types})
    raise Refused(
        f"the content of {name} is a list of {len(parts)} parts ({', '.join(kinds)}): not supported; "
        "only one text a turn is, no images and no tool calls"
    )


def _is_one_text(parts: list[Any]) -> bool:
    return len(parts) == 1 and isinstance(parts[0], dict) and parts[0].get("type") == "text"


def messages(value: Any, name: str) -> Messages:
    """A list of messages, in order; a system turn at its beginning that says nothing is none."""
    entries = list_of(value, name, "messages")
    first = 1 if entries and _is_empty_system(entries[0]) else 0
    return [turn(entry, f"turn {number} of {name}") for number, entry in enumerate(entries[first:], start=first + 1)]


def _is_empty_system(entry: Any) -> bool:
    """Whether `entry` is a system turn whose content is absent, null or white space."""
    if not isinstance(entry, dict) or first_with_value(entry, BESIDE_CONTENT):
        return False
    who = next((key for key, _ in KEYS if key in entry), "")
    said = [entry.get(content) for key, content in KEYS if key == who]
    return ROLES.get(_spelled(entry.get(who))) == "system" and all(map(_says_nothing, said))


def _says_nothing(content: Any) -> bool:
    if isinstance(content, list) and _is_one_text(content) and any(key in content[0] for key in PART_KEYS):
        content = _only_part(content, "")
    return is_null(content) or content == [] or (isinstance(content, str) and not content.strip())


def answered(turns: Messages, name: str) -> tuple[Messages, Messages]:
    """The prompt, which ends with the last user turn, and the answer: the assistant's turns after it.

    Raises:
        Refused: there is no user turn, or no answer.
    """
    roles = [turn["role"] for turn in turns]
    length = len(roles) - roles[::-1].index("user") if "user" in roles else 0
    if not length or set(roles[length:]) != {"assistant"}:
        by = ", ".join(roles) or "nobody"
        raise Refused(f"{name} has turns by {by}; it must end with the assistant's, which answer the user's last")
    return turns[:length], turns[length:]


def prompt(value: Any, name: str) -> Messages:
    """A prompt as messages: text is one user turn, a transcript its turns, without the empty "Assistant:" at its end.

    Raises:
        Refused: a transcript that ends with an answer, or text with the markers
            of HelpSteer2, NeMo-Aligner or Open-Assistant whose turns do not alternate from the user to the user.
        Missing: a transcript with turns in single lines, or text that `one_turn` does not take.
    """
    if isinstance(value, list):
        return messages(value, name)
    found = text(value, name)
    if NEMO_SYSTEM.match(found):
        return _nemo(found, name)
    if EXTRA_ID.search(found):
        return _marked(["User", *EXTRA_ID.split(found)], name, "<extra_id_1>")  # the user's first has none
    if found.lstrip().startswith(PROMPTER):
        return _open_assistant(found, name)
    if BEGINS_WITH_HEADER.match(found):
        return _up_to_human(found, name)
    return [{"role": "user", "content": one_turn(found, name)}]


def _nemo(found: str, name: str) -> Messages:
    """The turns of a prompt in NeMo-Aligner's template, its system turn first if that says something."""
    first, *parts = EXTRA_ID.split(found)
    is_open = parts[-2:-1] == ["Assistant"] and not parts[-1].strip()
    said = NEMO_SYSTEM.sub("", first, count=1)
    turns = _marked(parts[:-2] if is_open else parts, name, "<extra_id_1>")
    return [{"role": "system", "content": said}, *turns] if said.strip() else turns


def _open_assistant(found: str, name: str) -> Messages:
    """The turns of a prompt in Open-Assistant's template, without the mark that ends each."""
    # Where <s> occurs, </s> ends text that HTML strikes through.
    stop = r"<\|endoftext\|>" if "<s>" in found else r"(<\|endoftext\|>|</s>)"
    _, *parts = re.split(r"<\|(prompter|assistant)\|>", found)
    parts[1:-1:2] = [re.sub(rf"{stop}\Z", "", content.rstrip()) for content in parts[1:-1:2]]
    parts[-1] = re.sub(rf"{stop}\s*\Z", "", parts[-1])
    is_open = parts[-2] == "assistant" and not parts[-1].strip()
    return _marked(parts[:-2] if is_open else parts, name, PROMPTER)


def one_turn(found: str, name: str) -> str:
    """`found`, a text that is one user turn.

    Raises:
        Missing: it is a dialogue (`written_dialogue`). Where most first rows hold one, `recognise` refuses the file.
    """
    if why := not_one_turn(found):
        raise Missing(f"{name} {why}", "written_dialogue")
    return found


def written_dialogue(found: str) -> str | None:
    """What a text begins with that is a dialogue in a chat template's tokens, or between User: and Assistant:."""
    if rendered := RENDERED.match(found):
        return f"begins with {rendered[1]}, so a chat template has written it already, and another would be put on top"
    if FLATTENED.match(found):
        return "begins with User: and has a line that begins with Assistant:, which would be one user turn"
    return None


def not_one_turn(found: str) -> str | None:
    """As `written_dialogue`, or the marks between turns that `prompt` reads."""
    if why := written_dialogue(found):
        return why
    marked = NEMO_SYSTEM.match(found) or EXTRA_ID.search(found)
    mark = "<extra_id_1>" if marked else PROMPTER if found.lstrip().startswith(PROMPTER) else None
    return mark and f"is written in turns between {mark}, which are read in a prompt"


def _up_to_human(value: str, name: str) -> Messages:
    """The turns of a transcript that ends with the user's, or with an empty one of the assistant, which goes."""
    turns = transcript(value, name)
    if OPEN_END.search(value):
        turns = turns[:-1]
    if not turns or turns[-1]["role"] != "user":
        raise Refused(
            f"{name} begins as transcripts do, but ends with an answer; end it with Human's turn or an empty Assistant:"
        )
    if any(HEADER_OF_A_LINE.search(turn["content"]) for turn in turns):
        raise Missing(
            f"{name} has turns in single lines; write '\\n\\n' before each Human: and Assistant:", "written_dialogue"
        )
    return turns


def _marked(parts: list[str], name: str, marker: str) -> Messages:
    """The turns of a prompt that is written with markers: `parts` are role, content, role, content ..."""
    turns = [(ROLES[role.lower()], content) for role, content in zip(parts[::2], parts[1::2], strict=True)]
    if [role for role, _ in turns] != ["user", *["assistant", "user"] * (len(turns) // 2)]:
        by = ", ".join(role for role, _ in turns) or "nobody"
        raise Refused(f"{name} has turns by {by} between markers {marker}; they must alternate up to the user's")
    return [{"role": role, "content": content} for role, content in turns]


def answer(value: Any, name: str, asked: Any = None) -> Messages:
    """An answer as messages: text is one assistant turn.

    Args:
        asked: the prompt as the row has it; where it has NeMo-Aligner's template, the mark at the answer's end goes.

    Raises:
        Refused: the answer has such a mark and no prompt that says what it is, or it goes on with other turns.
    """
    if isinstance(value, list):
        return messages(value, name)
    if isinstance(value, dict):
        return [turn(value, name)]
    said = text(value, name)
    if asked is None and NEMO_END.search(said):
        raise Refused(
            f"{name} ends with <extra_id_1>, which is read beside a prompt with such marks only; give prompt and "
            "answers as messages"
        )
    if isinstance(asked, str) and NEMO_SYSTEM.match(asked):
        said = NEMO_END.sub("", said)
        if EXTRA_ID.search(said):
            raise Refused(f"{name} goes on with other turns after <extra_id_1>; give prompt and answers as messages")
    return [{"role": "assistant", "content": said}]


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


def system_turn(row: Row) -> Messages:
    """The system turn that stands in a column beside; none where it is absent, null or white space."""
    value = row.get("system")
    if is_null(value) or (isinstance(value, str) and not value.strip()):
        return []
    return [{"role": "system", "content": text(value, "system")}]


def after_system(row: Row, turns: Messages, name: str) -> Messages:
    """`turns`, which are `name`, after the system turn of the column beside; once where they begin with the same.

    Raises:
        Refused: they begin with another.
    """
    return _system(system_turn(row), turns[:1], name) + turns[len(_own_system(turns)) :]


def whole(before: Messages, turns: Messages, name: str) -> Messages:
    """The dialogue of an answer, which may itself begin with the prompt `before`, with its system turn or without.

    Raises:
        Refused: it begins neither with the prompt nor with the assistant, or with another system turn.
    """
    system, own = _own_system(before), _own_system(turns)
    asked, said = before[len(system) :], turns[len(own) :]
    if len(said) > len(asked) and said[: len(asked)] == asked:
        return _system(system, own, name) + said
    if turns and turns[0]["role"] == "assistant":
        return before + turns
    raise Refused(f"{name} begins with a turn by {turns[0]['role'] if turns else 'nobody'} but not with the prompt")


def _own_system(turns: Messages) -> Messages:
    return [turn for turn in turns[:1] if turn["role"] == "system"]


def _system(beside: Messages, first: Messages, name: str) -> Messages:
    """The system turn of a dialogue of which it stands in another place, too, or in one of both."""
    own = _own_system(first)
    if beside and own and own[0]["content"].strip() != beside[0]["content"].strip():
        raise Refused(
            f"system is {describe(beside[0]['content'])}, but {name} begins with the system turn "
            f"{own[0]['content'][:60]!r}; leave one of them out"
        )
    return own or beside
