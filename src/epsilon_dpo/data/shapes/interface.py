"""What a shape is: the columns by which it is recognised, and a function from one row to pairs.

A row holds plain values (text, numbers, booleans, None, lists, mappings); a shape is given it under its own names of
the columns (`Field.name`), whatever the file calls them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from epsilon_dpo.pipeline.stage.files import Messages, Row

Choose = Literal["best_worst", "all"]  # the pairs that n scored answers make
TEXT = frozenset({"text", "transcript"})
PLAIN = frozenset({"text"})
TRANSCRIPT = frozenset({"transcript"})  # text that begins as Anthropic-HH's dialogues do
MESSAGES = frozenset({"messages"})  # a list of {"role", "content"} or {"from", "value"}
ANSWER = frozenset({"text", "transcript", "message", "messages"})
PROMPT = frozenset({"text", "transcript", "messages"})
NULL = frozenset({"null"})  # in all rows seen so far
NUMBER = frozenset({"number", "text"})  # csv has text only; what is no number is refused with its row
LABEL = frozenset({"flag", "number", "text"})
LIST = frozenset({"messages", "objects", "texts"})


@dataclass(frozen=True)
class Unreadable:
    """A value that Python has none for, such as bytes that are no UTF-8 in a column of texts, or the year 300,000.

    Attributes:
        type: of its column in the file.
        why: as a part of a sentence.
    """

    type: str
    why: str

    def __repr__(self) -> str:
        return f"({self.why})"


@dataclass(frozen=True)
class Pair:
    """Two entire dialogues of which the first is preferred.

    Attributes:
        margin: score of chosen minus rejected, in the data's own unit; None where it has no scores.
        answers: which two of several answers these are, "0-3"; empty where the row has just two.
    """

    chosen: Messages
    rejected: Messages
    margin: float | None = None
    answers: str = ""


@dataclass(frozen=True)
class Half:
    """One judged answer, to be paired with one of the other verdict on the same prompt (data/sources/unpaired.py)."""

    prompt: Messages
    answer: Messages
    good: bool


@dataclass(frozen=True)
class Dropped:
    """A row, or two of its answers, that makes no pair.

    Attributes:
        reason: a name, such as "tied", by which they are counted.
        detail: the same for this row, as a part of a sentence.
    """

    reason: str
    detail: str


Result = Pair | Half | Dropped


@dataclass(frozen=True)
class Names:
    """The columns of one file that a shape reads, by the names of its fields.

    Attributes:
        of_file: as the file calls them.
        of_shape: which of a field's names the file, or `fetch.columns`, gives it.
    """

    of_file: dict[str, str]
    of_shape: dict[str, str]


Read = Callable[[Row, Choose], list[Result]]  # the row by the names of the shape's fields


class Refused(ValueError):
    """The row is not of the shape: nobody can say what it means, so reading stops. The message names the column."""


class Missing(ValueError):
    """A value is null, or no text among texts: the row makes no pair, and the others are read."""

    def __init__(self, message: str, reason: str = "null") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Field:
    """One column that a shape reads.

    Attributes:
        name: as the shape calls it, and `fetch.columns` may.
        kinds: of its values; see `values.kind`.
        also: other names of it in published sets; `name` comes before them.
        optional: whether the shape is also recognised without it.
    """

    name: str
    kinds: frozenset[str]
    also: tuple[str, ...] = ()
    optional: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """All that a file may call it, `name` first."""
        return (self.name, *self.also)


@dataclass(frozen=True)
class Shape:
    """One way to write preferences.

    Attributes:
        name: for messages, `epsilon-dpo inspect` and docs/datasets.md.
        description: one line: what a row looks like, and who writes it.
        fields: what it reads.
        without: columns that would make it another shape.
        read: one row, by the names of `fields` (absent ones are left out), as results.
        no_prompt_column: whether the prompt stands in the dialogues alone, so that a text in another column may be it.
        read_file: gives `read` for one file, by its first rows and its columns, where a value means different things
            in different files; None: it means the same in all.
    """

    name: str
    description: str
    fields: tuple[Field, ...]
    read: Read
    without: tuple[str, ...] = ()
    no_prompt_column: bool = False
    read_file: Callable[[Sequence[Row], Names], Read] | None = None
