"""Which shape a file has, and reading its rows by it. What other modules call stands here:

    reading = recognise(first_rows, "data/mine/train.jsonl", columns=None)   # UserError: no shape fits, or several do
    reading.shape.name, reading.shape.description                            # for people
    reading.names                                                            # {the shape's column: the file's column}
    reading.read(row, "data/mine/train.jsonl, row 3", "best_worst")          # [Pair | Half | Dropped], or UserError

`first_rows` are some first rows of the file as plain values (20 are enough); `columns` is `fetch.columns`: names of the
shapes' columns to names of the file's. With it only the mapped columns are looked at.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from epsilon_dpo.data.shapes.compared import COMPARED
from epsilon_dpo.data.shapes.interface import (
    LABEL,
    Choose,
    Dropped,
    Field,
    Half,
    Missing,
    Names,
    Pair,
    Refused,
    Result,
    Shape,
)
from epsilon_dpo.data.shapes.paired import PAIRED, SIDES
from epsilon_dpo.data.shapes.several import BEYOND, NUMBERS, SEVERAL
from epsilon_dpo.data.shapes.turns import UNSUPPORTED, first_with_value, messages, not_one_turn, written_dialogue
from epsilon_dpo.data.shapes.values import WRITTEN_MESSAGES, is_null, kinds_of, may_be_a_prompt, written_texts
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row

SHAPES = (*PAIRED, *COMPARED, *SEVERAL)
# Every name that `fetch.columns` can map to.
COLUMNS = frozenset(name for shape in SHAPES for field in shape.fields for name in field.names)
# Parts of a prompt in some sets; where another column is the prompt, nobody can say whether they belong to it.
OF_THE_PROMPT = ("history", "context", "input", "system", "system_prompt", "initial_reason_steps", "prefix")
# Usual names of a prompt; beside another that is read, one may hold what the other lacks.
PROMPT_FIELDS = frozenset({"prompt", "instruction", "conversations"})
OTHER_PROMPTS = ("instruction", "question", "query", "conversations")
ASKED_IN = frozenset({"prompt", "instruction", "question", "history"})  # fields whose text is one user turn or more
WEIGHT = "weight"  # of a pair: no method reads one, and whoever writes it expects that it counts
WHERE_TO_LOOK = "docs/datasets.md has the shapes"


@dataclass(frozen=True)
class Reading:
    """A shape on one file.

    Attributes:
        names: the file's column for each of the shape's that it has.
        seen: the columns with a value in the first rows; None if `fetch.columns` gave `names`, so that no other column
            is looked at.
    """

    shape: Shape
    names: dict[str, str]
    seen: frozenset[str] | None

    def read(self, row: Row, where: str, choose: Choose) -> list[Result]:
        """What the row gives: pairs, halves of pairs, or why there is none.

        Args:
            where: file and row, for messages.
            choose: which pairs n scored answers make.

        Raises:
            UserError: the row is not of this shape.
        """
        row = {name: value for name, value in row.items() if not is_null(value)}
        names = self.names if self.seen is None else self._names_in(row, self.seen, where)
        own = _own(row, names)
        try:
            results = self.shape.read(own, choose)
        except Refused as error:
            raise UserError(f"{where}: {_as_in_the_file(str(error), names)} (read as {self.shape.name}).") from None
        except Missing as error:
            return [Dropped(error.reason, _as_in_the_file(str(error), names))]
        if self.seen is not None and PROMPT_FIELDS & names.keys():
            others = {name: row[name] for name in OTHER_PROMPTS if row.get(name) and name not in names.values()}
            if others and not _dialogues_hold_the_prompt(own):
                self._refuse_another_question(others, results, where)
        return results

    def _names_in(self, row: Row, seen: frozenset[str], where: str) -> dict[str, str]:
        """`names` for this row; a column without which its pair would change, or seem to count, is read or refused."""
        if beside := first_with_value(row, UNSUPPORTED):
            raise UserError(f"{where}: has {beside}, which is not supported: only text is; remove such rows.")
        if row.get(WEIGHT, "") not in ("", []):
            raise UserError(
                f"{where}: has {WEIGHT}, but every pair counts alike here, whatever the method; remove the column, or "
                f"leave it out with fetch.columns: {{{_as_mapped(self.names)}}} ({WHERE_TO_LOOK})."
            )
        late = [name for name, value in row.items() if name not in seen and value not in ("", [])]
        names = self.names | self._optional(late, row, where) if late else self.names
        other = next((name for name in late if name in self.shape.without and name not in names.values()), None)
        if other:
            raise UserError(
                f"{where}: has {other}, which none of the first rows has (they read as {self.shape.name}); put the "
                f"rows with {other} into a file of their own."
            )
        lost = next((name for name in OF_THE_PROMPT if row.get(name) and name not in names.values()), None)
        if lost:
            raise self._unread(lost, where)
        if self.shape.no_prompt_column:
            _refuse_another_prompt(self.shape, names, row, where)
        return names

    def _optional(self, late: list[str], row: Row, where: str) -> dict[str, str]:
        """The columns `late` that are optional fields, by field, unless the row has it in another column as well."""
        there = {name for name, column in self.names.items() if column in row}
        found = {}
        for field in self.shape.fields:
            several = [name for name in field.names if name in late]
            if not several or not field.optional or field.name in there:
                continue
            if len(several) > 1 and field.name not in several:
                raise UserError(f"{where}: {field.name} could be {' or '.join(several)}; leave one out.")
            found[field.name] = several[0]
        return found

    def _refuse_another_question(self, others: Row, results: Sequence[Result], where: str) -> None:
        """Raises: UserError: one of the `others`, unread, says what the dialogue that was read does not."""
        for result in results:
            if isinstance(result, Pair):
                before, answers = result.chosen[:-1], [result.chosen[-1], *result.rejected]
            elif isinstance(result, Half):
                before, answers = result.prompt, result.answer
            else:
                continue
            for name, value in others.items():
                read = before if isinstance(value, str) else [*before, *answers]  # messages may end with an answer
                said = "\n".join(_in_one_line(turn["content"]) for turn in read)
                if not all(one in said for one in _texts_of(value)):
                    raise self._unread(name, where)

    def _unread(self, column: str, where: str) -> UserError:
        return UserError(
            f"{where}: has {column}, which may be a part of the prompt, and {self.shape.name} does not read it; "
            f"write it into the prompt, or leave it out with fetch.columns: {{{_as_mapped(self.names)}}} "
            f"({WHERE_TO_LOOK})."
        )


def _own(row: Row, names: Mapping[str, str]) -> Row:
    """The row by the shape's names of its columns."""
    return {name: row.get(column) for name, column in names.items()}


def _dialogues_hold_the_prompt(own: Row) -> bool:
    """Whether both sides, which were read, have a user turn of their own."""
    dialogues = [messages(own[side], side) for side in SIDES if isinstance(own.get(side), list)]
    return len(dialogues) == 2 and all(any(turn["role"] == "user" for turn in one) for one in dialogues)


def _texts_of(value: Any) -> list[str]:
    """The text, or those of messages, in one line each."""
    entries = value if isinstance(value, list) else [value]
    texts = [entry.get("content", entry.get("value")) if isinstance(entry, dict) else entry for entry in entries]
    return [_in_one_line(one) for one in texts if isinstance(one, str)]


def _in_one_line(found: str) -> str:
    return " ".join(found.split())


def _as_in_the_file(message: str, names: Mapping[str, str]) -> str:
    """The message with the file's name of the column that it names first, if that is another."""
    first = re.search(rf"\b({'|'.join(names)})\b", message)
    column = names[first[0]] if first else ""
    return f"{message} (column {column})" if first and column != first[0] else message


def recognise(rows: Sequence[Row], where: str, columns: Mapping[str, str] | None = None) -> Reading:
    """The one shape that the first rows of a file have.

    Raises:
        UserError: none fits, several do, or `columns` names a column that the file has not; with the columns seen.
    """
    kinds = kinds_of(rows)
    mapped = columns or {}
    unknown = [column for column in mapped.values() if column not in kinds]
    if unknown:
        raise UserError(f"{where} has no column {unknown[0]!r} (fetch.columns); it has {_shown(kinds)}.")
    shape, names = _only_fit(kinds, mapped, where)
    unread = next((name for name in mapped if name not in names.of_shape.values()), None)
    if unread:
        raise UserError(f"{where} reads as {shape.name}, which has no {unread}; leave it out of fetch.columns.")
    if not mapped and shape.no_prompt_column:
        for row in rows:
            _refuse_another_prompt(shape, names.of_file, row, where)
    _refuse_notations(shape, names.of_file, rows, where)
    if shape.read_file is not None:
        shape = replace(shape, read=shape.read_file([_own(row, names.of_file) for row in rows], names))
    with_a_value = frozenset(name for name, kind in kinds.items() if kind != "null")
    return Reading(shape, names.of_file, None if mapped else with_a_value)


def _shown(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "no column"


def _only_fit(kinds: Mapping[str, str], mapped: Mapping[str, str], where: str) -> tuple[Shape, Names]:
    """The only shape that fits columns of these kinds. Raises: UserError: none does, several do, or not in one way."""
    called = mapped or {name: name for name in kinds}  # the file's column by the name that a shape may know
    known = {name: kinds[column] for name, column in called.items()}
    fitting = [(shape, names) for shape in SHAPES if (names := _fit(shape, known)) is not None]
    # What stands in a prompt's column is the prompt.
    fitting = [fit for fit in fitting if not fit[0].no_prompt_column] or fitting
    if not fitting:
        called_so = f" (as fetch.columns names them: {', '.join(mapped)})" if mapped else ""
        raise UserError(
            f"{where} has no shape of preference data that is known here; it has {_shown(kinds)}{called_so}. "
            f"{_closest(known)}"
            "It must have chosen and rejected, two answers with a verdict, several with scores, or one with a label, "
            "and a prompt; name them with fetch.columns, such as {prompt: question, chosen: good, rejected: bad}, and "
            f"with them whatever else belongs to the prompt, such as system or history ({WHERE_TO_LOOK})."
        )
    shape, of_shape = fitting[0]
    of_file = {name: called[own] for name, own in of_shape.items()}
    if len(fitting) > 1:
        several = " and ".join(shape.name for shape, _ in fitting)
        raise UserError(
            f"{where} has columns of several shapes ({several}): {_shown(kinds)}; say which to read with "
            f"fetch.columns, such as {{{_as_mapped(of_file)}}} ({WHERE_TO_LOOK})."
        )
    _only_one_column_each(shape, known, where)
    return shape, Names(of_file, of_shape)


def _as_mapped(names: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {column}" for name, column in names.items())


def _closest(kinds: Mapping[str, str]) -> str:
    """The shape that it would be but for one column, as a sentence; empty if there is none."""
    beyond = next((name for name in BEYOND if {name, f"{name.split('_')[0]}_0"} <= kinds.keys()), None)
    if beyond:
        return (
            f"{beyond} is an answer too many: {len(NUMBERS)} are read in a column each, and any number in a list, as "
            '{prompt, answers: [{"text": ..., "score": ...}, ...]}. '
        )
    possible = [shape for shape in SHAPES if kinds.keys().isdisjoint(shape.without)]
    there, hint = max((_but_for_one(shape, kinds) for shape in possible), key=itemgetter(0), default=(0, ""))
    return hint if there > 1 else ""


def _but_for_one(shape: Shape, kinds: Mapping[str, str]) -> tuple[int, str]:
    """How many needed fields are there, and what it would be but for one column; 0 if it is more than one."""
    needed = [field for field in shape.fields if not field.optional]
    absent = [field.name for field in needed if not _columns(field, kinds)]
    odd = [
        name for field in shape.fields for name in field.names if kinds.get(name, "null") not in {*field.kinds, "null"}
    ]
    if any(field.name == "completion" for field in needed) and _two_of_a_kind(kinds):
        return 0, ""
    if odd and not absent:
        return len(needed), f"It would be {shape.name}, but for {odd[0]}, which is {kinds[odd[0]]}. "
    if len(absent) == 1 and not odd:
        return len(needed) - 1, f"It would be {shape.name} with a column {absent[0]}. "
    return 0, ""


def _two_of_a_kind(kinds: Mapping[str, str]) -> bool:
    """Whether two columns are called alike but for a letter or number at the end, as two answers are."""
    lower = {name.lower() for name in kinds}
    pairs = (("a", "b"), ("1", "2"), ("0", "1"))
    return any(name.endswith(one) and name[:-1] + other in lower for name in lower for one, other in pairs)


def _fit(shape: Shape, kinds: Mapping[str, str]) -> dict[str, str] | None:
    """Under which of its names each field of `shape` is there; None if it is another shape."""
    if not kinds.keys().isdisjoint(shape.without):  # also of a null one: later rows would lose it in silence
        return None
    names = {}
    for field in shape.fields:
        found = _columns(field, kinds)
        if found:
            names[field.name] = found[0]
        elif not field.optional or any(kinds.get(name, "null") != "null" for name in field.names):
            return None  # also if an optional one holds something else: it would be lost in silence
    return names


def _columns(field: Field, kinds: Mapping[str, str]) -> list[str]:
    """The columns that this field may be, its own name first; an optional one may be null so far."""
    found = [name for name in field.names if kinds.get(name) in field.kinds]
    if not found and field.optional:
        found = [name for name in field.names if kinds.get(name) == "null"][:1]
    return found


Notation = tuple[Callable[[str], str | None], str]  # what a text is written as, if it is; what to do instead


def _messages_as_text(found: str) -> str | None:
    return "holds messages written as text" if WRITTEN_MESSAGES.match(found) else None  # as csv makes of a list


def _list_as_text(found: str) -> str | None:
    return "holds lists written as text" if written_texts(found) is not None else None


def _notations(shape: Shape, name: str) -> list[Notation]:
    """What most of a field's texts may not be."""
    begins_with_prompt = name == "chosen" and shape.name == "implicit_text"
    found: list[Notation] = [(_messages_as_text, "save them as lists, in JSON lines or parquet")]
    if name not in ASKED_IN and not begins_with_prompt:
        return found
    if shape.name != "winner_columns":  # which reads lists
        found.append((_list_as_text, f"save them as messages, in JSON lines or parquet ({WHERE_TO_LOOK})"))
    as_messages = 'give its turns as messages, [{"role": "user", "content": text}], in JSON lines or parquet'
    return [*found, (not_one_turn if begins_with_prompt else written_dialogue, as_messages)]


def _refuse_notations(shape: Shape, of_file: Mapping[str, str], rows: Sequence[Row], where: str) -> None:
    """Raises: UserError: most texts of a column are notations of several; single dialogues are dropped by name."""
    for name, column in of_file.items():
        texts = [row[column] for row in rows if isinstance(row.get(column), str)]
        for notation, remedy in _notations(shape, name):
            found = [why for why in map(notation, texts) if why]
            if len(found) > len(texts) / 2:
                raise UserError(f"{where}: {column} {found[0]}; {remedy}.")


def _refuse_another_prompt(shape: Shape, names: Mapping[str, str], row: Row, where: str) -> None:
    """Raises: UserError: the shape looks for the prompt in the dialogues, and a column beside them may hold it."""
    for column, value in row.items():
        if column not in names.values() and column not in UNSUPPORTED and may_be_a_prompt(column, value):
            mapped = _as_mapped(names)
            there = names.get("dialogue", "chosen and rejected")
            remedy = (
                f"write it into {there} if it is, or set fetch.columns to {{{mapped}}} if not"
                if "dialogue" in names or shape.name == "transcripts"  # beside which no shape reads a prompt
                else f"say with fetch.columns: {{prompt: {column}, {mapped}}} if it is, {{{mapped}}} if not"
            )
            raise UserError(
                f"{where} reads as {shape.name}, with the prompt in {there}, but {column} may be the prompt; {remedy} "
                f"({WHERE_TO_LOOK})."
            )


def _only_one_column_each(shape: Shape, kinds: Mapping[str, str], where: str) -> None:
    """Raises: UserError: two columns could be the same field, and neither has its own name; two verdicts may differ."""
    for field in shape.fields:
        several = _columns(field, kinds)
        if len(several) > 1 and (field.name not in several or field.kinds == LABEL):
            raise UserError(
                f"{where} reads as {shape.name}, whose {field.name} could be {' or '.join(several)}; say which with "
                f"fetch.columns, such as {{{field.name}: {several[0]}, ...}}, naming all columns ({WHERE_TO_LOOK})."
            )
