"""What a validation has found so far, and what follows from it: a row dropped by name, a reason to stop, or a note.

Rows come in chunks. Of what they fail a count, the first ids and the first reason are kept, so that the ledger does
not grow with them; a dropped row is handed on at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import great_expectations.expectations as gxe
import numpy as np

from epsilon_dpo.data.contract.expectations import RowExpectation, split_expectations
from epsilon_dpo.data.contract.gx import FIRST_IDS, Finding, evaluate, evaluate_column
from epsilon_dpo.data.contract.params import Validate
from epsilon_dpo.data.facts.rows import SPLITS, Row
from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.pipeline.observability.errors import UserError


@dataclass
class _Record:
    """One expectation on one split, over all chunks so far."""

    meaning: str
    action: str
    kind: str = ""
    success: bool = True
    evaluated: int = 0
    failing: int = 0
    first_ids: list[str] = field(default_factory=list)
    first_reason: str = ""
    remedy: str = ""
    observed: float | None = None

    def add(self, finding: Finding, again: bool = False) -> None:
        """Of rows that were counted before if `again`."""
        self.kind, self.observed = finding.kind, finding.observed
        self.success &= finding.success
        self.evaluated += 0 if again else finding.evaluated
        self.failing += finding.failing
        self.first_ids = (self.first_ids + finding.ids)[:FIRST_IDS]


class Ledger:
    """One validation in the making.

    Attributes:
        stops: one sentence per failed expectation about an entire split.
    """

    def __init__(self, tokens: Tokens, contract: Validate, drop: Callable[[str, list[Row]], None]) -> None:
        """`drop` takes a split and entries {"split", "id", "expectation", "reason"}, one per row and failure."""
        self.tokens = tokens
        self.contract = contract
        self.on_failure = contract.on_failure.model_dump()
        self.stops: list[str] = []
        self._drop = drop
        self._records: dict[tuple[str, str], _Record] = {}

    def judge_rows(
        self, split: str, rows: list[Row], expectations: list[RowExpectation], columns: list[str]
    ) -> set[str]:
        """The ids of `rows` (facts of a chunk) that are dropped; expectations that end the pipeline are remembered."""
        found = evaluate(rows, columns, {e.name: e.build(self.tokens) for e in expectations})
        facts = {row["id"]: row for row in rows}
        lost: dict[str, list[Row]] = {}
        for expectation in expectations:
            finding, action = found[expectation.name], self.on_failure[expectation.name]
            record = self._record(split, expectation.name, expectation.meaning, action)
            if finding.ids and not record.first_reason:
                record.first_reason = expectation.reason(facts[finding.ids[0]], self.tokens)
                record.remedy = expectation.remedy
            record.add(finding, expectation.again)
            for failing in finding.ids if action == "drop" else []:
                reason = expectation.reason(facts[failing], self.tokens)
                entry = {"split": split, "id": failing, "expectation": expectation.name, "reason": reason}
                lost.setdefault(failing, []).append(entry)
        self._drop(split, [entry for row in rows for entry in lost.get(row["id"], [])])
        return set(lost)

    def note_repeated_prompts(self, split: str, prompts: np.ndarray, id_of: Callable[[str, int], str]) -> None:
        """Report prompts that occur in two rows: legitimate, but worth knowing; never a reason to drop or to stop.

        Args:
            prompts: of each row a value that stands for its prompt.
            id_of: the id of a row, by split and number from 1.
        """
        column = "chosen_prompt"
        finding = evaluate_column(column, prompts, gxe.ExpectColumnValuesToBeUnique(column=column))
        record = self._record(split, "prompts_unique", "no prompt occurs in two rows of a split", "report")
        record.add(finding)
        record.first_ids = [id_of(split, place + 1) for place in finding.ids]

    def judge_split(self, split: str, dropped: np.ndarray, truncated_share: np.ndarray, length: int) -> None:
        """The expectations about the entire split.

        Args:
            dropped, truncated_share: of each row whether it is dropped; of each kept one the share that is cut.
            length: the tokens.max_length at which few enough are cut.
        """
        columns = {"dropped": dropped, "truncated_share": truncated_share}
        few = False
        for expectation in split_expectations(split, self.contract, length):
            values = columns[expectation.column]
            finding = evaluate_column(expectation.column, values, expectation.build)
            self._record(split, expectation.name, expectation.meaning, "stop").add(finding)
            empty = len(values) == 0 and expectation.name.startswith("max_")  # there is no share of nothing
            if not finding.success and not empty:
                assert finding.observed is not None
                what = f"{expectation.sentence(finding.observed, len(values))}; {expectation.remedy}"
                self.stops.append(f"validate.{expectation.name} is broken by the split {split}: {what}.")
                few |= expectation.name != "max_truncated_share"
        if few and dropped.any():
            self.stops.append(self._why_dropped(split, len(dropped)))

    def _why_dropped(self, split: str, rows: int) -> str:
        """Which expectations the dropped rows of `split` fail, the most frequent first, explained by example."""
        found = [(name, r) for (of, name), r in self._in_order() if of == split and r.action == "drop" and r.failing]
        (most, record), *others = sorted(found, key=lambda item: -item[1].failing)
        broken = f"{record.failing:,} fail {most} (the first, {record.first_ids[0]}: {record.first_reason})"
        broken += "".join(f", {r.failing:,} fail {name} (the first: {r.first_ids[0]})" for name, r in others)
        return f"Of the {rows:,} rows of the split {split} {broken}; for {most}, {record.remedy}."

    def stop_if_broken(self) -> None:
        """Raises: UserError: one sentence per failed expectation, when one of them is set to `stop`."""
        rows = [
            stop_sentence(split, name, record)
            for (split, name), record in self._in_order()
            if record.action == "stop" and record.failing
        ]
        if rows or self.stops:
            raise UserError(" ".join(rows + self.stops))

    def findings(self) -> list[dict[str, Any]]:
        """One entry per expectation and split, for validation.json."""
        return [_entry(split, name, record) for (split, name), record in self._in_order()]

    def _in_order(self) -> list[tuple[tuple[str, str], _Record]]:
        return sorted(self._records.items(), key=lambda item: SPLITS.index(item[0][0]))

    def _record(self, split: str, name: str, meaning: str, action: str) -> _Record:
        return self._records.setdefault((split, name), _Record(meaning, action))


def _entry(split: str, name: str, record: _Record) -> dict[str, Any]:
    entry = {
        "expectation": name,
        "meaning": record.meaning,
        "kind": record.kind,
        "split": split,
        "on_failure": record.action,
        "success": record.success,
        "evaluated": record.evaluated,
    }
    if record.observed is None:
        entry["unexpected"] = record.failing
        entry["unexpected_percent"] = round(100 * record.failing / max(record.evaluated, 1), 4)
        entry["first_ids"] = record.first_ids
    else:
        entry["observed"] = round(record.observed, 6)
    return entry


def stop_sentence(split: str, name: str, record: _Record) -> str:
    first = ", ".join(record.first_ids) + (", ..." if record.failing > FIRST_IDS else "")
    return (
        f"{record.failing} of {record.evaluated} rows of the split {split} fail {name} "
        f"({record.meaning}): {first}; in the first, {record.first_reason}; "
        f"{record.remedy}, or set validate.on_failure.{name}: drop in params.yaml."
    )
