"""What only all rows together show: repeated prompts, identical and contradicting rows, answers used more than once.

Each row leaves a few digests in an SQLite table in a temporary file, so that memory does not grow with the number of
rows. Answers are compared without the white space around them.
"""

import sqlite3
from dataclasses import dataclass

import numpy as np

from epsilon_dpo.data.facts.rows import SIDES, SPLITS, Row, answer_text, dialogue_key, digest, prompt_key
from epsilon_dpo.pipeline.observability.errors import UserError

LISTED = 20  # ids per kind
_SPLIT_BITS = 40  # bits for a row's number in its place: no split has 2^40 rows

_TABLE = """
CREATE TABLE rows (place INTEGER PRIMARY KEY, split TEXT, id TEXT, dialogue INTEGER, prompt INTEGER, chosen INTEGER,
    rejected INTEGER, margin REAL, UNIQUE (split, id))
"""
_INDEX = "CREATE INDEX contents ON rows (prompt, chosen, rejected)"
_ANSWERS = """
CREATE TABLE answers AS
    SELECT answer, COUNT(DISTINCT prompt) AS prompts, SUM(side) AS chosen, COUNT(*) - SUM(side) AS rejected,
        MIN(place) AS place
    FROM (SELECT chosen AS answer, prompt, 1 AS side, place FROM rows
        UNION ALL SELECT rejected, prompt, 0, place FROM rows)
    WHERE answer <> ? GROUP BY answer HAVING prompts > 1
"""
_REPEATED = "(SELECT prompt FROM rows GROUP BY prompt HAVING COUNT(*) > 1)"
_EARLIER = """EXISTS (SELECT 1 FROM rows AS other WHERE other.prompt = rows.prompt AND other.chosen = rows.chosen
    AND other.rejected = rows.rejected AND other.place < rows.place)"""
_SWAPPED = """chosen <> rejected AND EXISTS (SELECT 1 FROM rows AS other WHERE other.prompt = rows.prompt
    AND other.chosen = rows.rejected AND other.rejected = rows.chosen)"""
_HELD_OUT = "(SELECT {} FROM rows WHERE split = 'eval')"
_GOES_ON = f"""split = 'train' AND dialogue IN {_HELD_OUT.format("dialogue")}
    AND prompt NOT IN {_HELD_OUT.format("prompt")}"""
_PAIR = "prompt, MIN(chosen, rejected), MAX(chosen, rejected)"


@dataclass(frozen=True)
class Kind:
    """How often something was found.

    Attributes:
        count: of the thing itself, e.g. of repeated prompts.
        rows: rows that are concerned.
        ids: the first LISTED of these.
    """

    count: int
    rows: int
    ids: list[str]


@dataclass(frozen=True)
class SharedAnswer:
    """An answer to several prompts: how many, how often it is chosen and rejected, and the place of its first row."""

    answer: int
    prompts: int
    chosen: int
    rejected: int
    place: int


def place(split: str, number: int) -> int:
    """Where row `number` of `split` stands among all rows: training rows first."""
    return (SPLITS.index(split) << _SPLIT_BITS) + number


class Relations:
    """Digests of all rows; `add` them, then `finish`, then ask."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # a file without a name, which vanishes when closed
        self._db.execute(f"PRAGMA cache_size = -{32 * 1024}")  # KiB
        self._db.execute(_TABLE)

    def add(self, split: str, first: int, rows: list[Row]) -> None:
        """`rows` of `split`, the first of them row `first`.

        Raises:
            UserError: two rows of the split have one id.
        """
        self._db.execute("BEGIN")
        for number, row in enumerate(rows, start=first):
            answers = [digest(answer_text(row[side]).strip()) for side in SIDES]
            asked = [digest(key(row["chosen"])) for key in (dialogue_key, prompt_key)]
            values = (place(split, number), split, row["id"], *asked, *answers, row.get("margin"))
            try:
                self._db.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            except sqlite3.IntegrityError:
                raise UserError(
                    f"out/fetch/{split}.jsonl, row {number}: the id {row['id']} occurs twice, so no finding could name "
                    "its row."
                ) from None
        self._db.execute("COMMIT")

    def finish(self) -> None:
        self._db.execute(_INDEX)
        self._db.execute(_ANSWERS, (digest(""),))

    def rows(self, split: str) -> int:
        return int(self._one("SELECT COUNT(*) FROM rows WHERE split = ?", split))

    def prompts(self, split: str) -> np.ndarray:
        """Digest of each row's prompt, in the order of the rows, int64 [rows]."""
        return self._column("SELECT prompt FROM rows WHERE split = ? ORDER BY place", split, np.int64)

    def margins(self, split: str) -> np.ndarray:
        """The margins of the rows that have one, float64."""
        return self._column("SELECT margin FROM rows WHERE split = ? AND margin IS NOT NULL", split, np.float64)

    def id_of(self, split: str, number: int) -> str:
        return str(self._one("SELECT id FROM rows WHERE place = ?", place(split, number)))

    def repeated_prompts(self) -> Kind:
        """Prompts of more than one row; ids prompt by prompt."""
        where = f"prompt IN {_REPEATED}"
        return self._kind(f"SELECT COUNT(*) FROM {_REPEATED}", where, "prompt")

    def identical_rows(self) -> Kind:
        """Rows that repeat an earlier row: prompt, chosen and rejected answer."""
        return self._kind(f"SELECT COUNT(*) FROM rows WHERE {_EARLIER}", _EARLIER, "place")

    def contradicting_rows(self) -> Kind:
        """Pairs of answers to one prompt of which each is preferred to the other; ids pair by pair."""
        count = f"SELECT COUNT(*) FROM (SELECT DISTINCT {_PAIR} FROM rows WHERE {_SWAPPED})"
        return self._kind(count, _SWAPPED, _PAIR)

    def dialogues_in_both_splits(self) -> Kind:
        """Dialogues that training rows have at another turn than the evaluation rows; ids of training rows."""
        count = f"SELECT COUNT(DISTINCT dialogue) FROM rows WHERE {_GOES_ON}"
        return self._kind(count, _GOES_ON, "place")

    def answers_on_both_sides(self, most: int) -> tuple[int, list[SharedAnswer]]:
        """Answers chosen for one prompt and rejected for another: their number, and the `most` frequent."""
        return self._shared("chosen > 0 AND rejected > 0", most)

    def answers_of_several_prompts(self, most: int) -> tuple[int, list[SharedAnswer]]:
        """Answers of two prompts or more: their number, and those of the most prompts."""
        return self._shared("TRUE", most)

    def _one(self, query: str, *values: str | int) -> int | str:
        found: int | str = self._db.execute(query, values).fetchone()[0]
        return found

    def _column(self, query: str, split: str, dtype: type) -> np.ndarray:
        return np.fromiter((value for (value,) in self._db.execute(query, (split,))), dtype)

    def _kind(self, count: str, where: str, group: str) -> Kind:
        """The rows that satisfy `where`, listed group by group in order of appearance."""
        ids = f"SELECT id FROM rows WHERE {where} ORDER BY MIN(place) OVER (PARTITION BY {group}), place LIMIT {LISTED}"
        rows = int(self._one(f"SELECT COUNT(*) FROM rows WHERE {where}"))
        return Kind(int(self._one(count)), rows, [name for (name,) in self._db.execute(ids)])

    def _shared(self, where: str, most: int) -> tuple[int, list[SharedAnswer]]:
        columns = "answer, prompts, chosen, rejected, place"
        order = "prompts DESC, chosen + rejected DESC, place"
        found = self._db.execute(f"SELECT {columns} FROM answers WHERE {where} ORDER BY {order} LIMIT ?", (most,))
        return int(self._one(f"SELECT COUNT(*) FROM answers WHERE {where}")), [SharedAnswer(*row) for row in found]
