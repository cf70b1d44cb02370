"""The defects of a dataset as it came, each by an unambiguous definition: what a reader of the dataset should know."""

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from epsilon_dpo.data.contract.facts import SIDES, Row, prompt_key

LISTED = 20  # ids per defect in the summary


def _empty_answer(row: Row, side: str) -> bool:
    return not row[side] or not row[side][-1]["content"].strip()


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
        "rows whose turns before the answer differ between the sides (the line above, or rejected has more turns)",
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


def defects(splits: dict[str, list[Row]]) -> list[dict[str, Any]]:
    """Every known kind of defect over all splits, found or not.

    Returns:
        name, meaning, count, rows (how many are concerned), ids (the first LISTED of them). For `duplicated_prompts`,
        `count` counts prompts, and `ids` names the rows that share one, prompt by prompt.
    """
    rows = [row for part in splits.values() for row in part]
    found = [(name, meaning, [row["id"] for row in rows if test(row)]) for name, meaning, test in ROW_DEFECTS]
    summary = [_entry(name, meaning, len(ids), ids) for name, meaning, ids in found]
    by_prompt = defaultdict(list)
    for row in rows:
        by_prompt[prompt_key(row["chosen"])].append(row["id"])
    groups = [ids for ids in by_prompt.values() if len(ids) > 1]
    meaning = "prompts that occur in more than one row (legitimate: nothing is dropped for it)"
    shared = [one for ids in groups for one in ids]
    return [*summary, _entry("duplicated_prompts", meaning, len(groups), shared)]


def _entry(name: str, meaning: str, count: int, ids: list[str]) -> dict[str, Any]:
    return {"name": name, "meaning": meaning, "count": count, "rows": len(ids), "ids": ids[:LISTED]}
