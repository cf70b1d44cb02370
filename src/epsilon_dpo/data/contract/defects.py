"""The defects of a dataset as it came, each by an unambiguous definition: what a reader of the dataset should know."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from epsilon_dpo.data.contract.relations import LISTED, Kind, Relations
from epsilon_dpo.data.facts.rows import SIDES, SPLITS, Row, answer_text, is_seen


def _empty_answer(row: Row, side: str) -> bool:
    return not is_seen(answer_text(row[side]))


def _single_turn(row: Row) -> bool:
    return [turn["role"] for turn in row["chosen"]] == ["user", "assistant"]


def _leaves_prompt(row: Row) -> bool:
    """The rejected side does not begin with the chosen side's prompt."""
    prompt = row["chosen"][:-1]
    return row["rejected"][: len(prompt)] != prompt


def _prompts_differ(row: Row) -> bool:
    return row["chosen"][:-1] != row["rejected"][:-1]


def _repeats_role(row: Row, side: str) -> bool:
    roles = [turn["role"] for turn in row[side]]
    return any(first == second for first, second in pairwise(roles))


ROW_DEFECTS: list[tuple[str, str, Callable[[Row], bool]]] = [
    (
        "empty_chosen_single_turn",
        "rows of one user turn and one answer whose chosen answer is empty",
        lambda row: _single_turn(row) and _empty_answer(row, "chosen"),
    ),
    ("empty_chosen", "rows whose chosen answer is empty", lambda row: _empty_answer(row, "chosen")),
    ("empty_rejected", "rows whose rejected answer is empty", lambda row: _empty_answer(row, "rejected")),
    (
        "rejected_leaves_chosen_prompt",
        "rows whose rejected side does not begin with the chosen side's prompt",
        _leaves_prompt,
    ),
    (
        "prompts_differ",
        "rows whose turns before the answer differ between the sides, in text, role or number",
        _prompts_differ,
    ),
    (
        "repeated_role_chosen",
        "rows whose chosen side has two turns of one role in a row",
        lambda row: _repeats_role(row, "chosen"),
    ),
    (
        "repeated_role_either",
        "rows with two turns of one role in a row on either side",
        lambda row: any(_repeats_role(row, side) for side in SIDES),
    ),
]

# `count` counts prompts, copies, pairs of answers and dialogues; `ids` names rows, group by group.
RELATIONS: list[tuple[str, str, Callable[[Relations], Kind]]] = [
    (
        "duplicated_prompts",
        "prompts that occur in more than one row (legitimate: nothing is dropped for it)",
        Relations.repeated_prompts,
    ),
    (
        "identical_rows",
        "rows that repeat an earlier row: the same prompt, chosen and rejected answer",
        Relations.identical_rows,
    ),
    (
        "contradicting_rows",
        "pairs of answers to one prompt of which one row prefers the first and another row the second",
        Relations.contradicting_rows,
    ),
    (
        "dialogues_in_both_splits",
        "dialogues whose first user turn training and evaluation rows share although their prompts differ, such as "
        "one dialogue at several of its turns",
        Relations.dialogues_in_both_splits,
    ),
]


class Defects:
    """Every known kind of defect, found or not, over the rows that were added."""

    def __init__(self) -> None:
        self._found = {(split, name): Kind(0, 0, []) for split in SPLITS for name, _, _ in ROW_DEFECTS}

    def add(self, split: str, rows: list[Row]) -> None:
        for name, _, test in ROW_DEFECTS:
            before, ids = self._found[split, name], [row["id"] for row in rows if test(row)]
            count = before.count + len(ids)
            self._found[split, name] = Kind(count, count, (before.ids + ids)[:LISTED])

    def entries(self, relations: Relations) -> list[dict[str, Any]]:
        """name, meaning, count, rows (how many are concerned), ids (the first LISTED of them)."""
        entries = []
        for name, meaning, _ in ROW_DEFECTS:
            kinds = [self._found[split, name] for split in SPLITS]
            count, ids = sum(kind.count for kind in kinds), [one for kind in kinds for one in kind.ids]
            entries.append(_entry(name, meaning, Kind(count, count, ids[:LISTED])))
        entries += [_entry(name, meaning, ask(relations)) for name, meaning, ask in RELATIONS]
        return entries


def _entry(name: str, meaning: str, kind: Kind) -> dict[str, Any]:
    return {"name": name, "meaning": meaning, "count": kind.count, "rows": kind.rows, "ids": kind.ids}
