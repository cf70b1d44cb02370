"""What a validation has found so far, and what follows from it: a row dropped by name, a reason to stop, or a note."""

from typing import Any

from epsilon_dpo.data.contract.expectations import RowExpectation, split_expectations
from epsilon_dpo.data.contract.facts import Row
from epsilon_dpo.data.contract.gx import Finding, evaluate
from epsilon_dpo.data.contract.params import Validate
from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.pipeline.observability.errors import UserError

FIRST_IDS = 5  # of a finding, in validation.json and in messages


class Ledger:
    """One validation in the making.

    Attributes:
        findings: one entry per expectation and split, for validation.json.
        dropped: {"split", "id", "expectation", "reason"}, one per row and broken promise.
        stops: one sentence per broken promise that ends the pipeline.
    """

    def __init__(self, tokens: Tokens, contract: Validate) -> None:
        self.tokens = tokens
        self.contract = contract
        self.on_failure = contract.on_failure.model_dump()
        self.findings: list[dict[str, Any]] = []
        self.dropped: list[Row] = []
        self.stops: list[str] = []

    def judge_rows(
        self, split: str, rows: list[Row], expectations: list[RowExpectation], columns: list[str]
    ) -> set[str]:
        """The ids of `rows` (facts) that are dropped; rows that must stop the pipeline are noted in `stops`."""
        found = evaluate(rows, columns, {e.name: e.build(self.tokens) for e in expectations})
        facts = {row["id"]: row for row in rows}
        lost: dict[str, list[Row]] = {}
        for expectation in expectations:
            finding, action = found[expectation.name], self.on_failure.get(expectation.name, "report")
            self._record(split, expectation.name, expectation.promise, action, finding)
            if action == "stop" and not finding.success:
                self.stops.append(stop_sentence(split, expectation, finding, facts, self.tokens))
            for failing in finding.ids if action == "drop" else []:
                reason = expectation.reason(facts[failing], self.tokens)
                entry = {"split": split, "id": failing, "expectation": expectation.name, "reason": reason}
                lost.setdefault(failing, []).append(entry)
        self.dropped += [entry for row in rows for entry in lost.get(row["id"], [])]
        return set(lost)

    def judge_split(self, split: str, everything: list[Row], kept: list[Row]) -> None:
        """The promises about the entire split."""
        for expectation in split_expectations(split, self.contract):
            rows = everything if expectation.table == "all" else kept
            columns = ["id", "dropped"] if expectation.table == "all" else ["id", "truncated_share"]
            finding = evaluate(rows, columns, {expectation.name: expectation.build})[expectation.name]
            self._record(split, expectation.name, expectation.promise, "stop", finding)
            if not finding.success:
                assert finding.observed is not None
                what = expectation.sentence(finding.observed)
                self.stops.append(f"validate.{expectation.name} is broken by the split {split}: {what}.")

    def stop_if_broken(self) -> None:
        """Raises: UserError: one sentence per broken promise, when one of them is set to `stop`."""
        if self.stops:
            raise UserError(" ".join(self.stops))

    def _record(self, split: str, name: str, promise: str, action: str, finding: Finding) -> None:
        entry = {
            "expectation": name,
            "promise": promise,
            "kind": finding.kind,
            "split": split,
            "on_failure": action,
            "success": finding.success,
            "evaluated": finding.evaluated,
        }
        if finding.observed is None:
            entry["unexpected"] = len(finding.ids)
            entry["unexpected_percent"] = round(100 * len(finding.ids) / max(finding.evaluated, 1), 4)
            entry["first_ids"] = finding.ids[:FIRST_IDS]
        else:
            entry["observed"] = round(finding.observed, 6)
        self.findings.append(entry)


def stop_sentence(
    split: str, expectation: RowExpectation, finding: Finding, facts: dict[str, Row], tokens: Tokens
) -> str:
    first = ", ".join(finding.ids[:FIRST_IDS]) + (", ..." if len(finding.ids) > FIRST_IDS else "")
    return (
        f"{len(finding.ids)} of {finding.evaluated} rows of the split {split} break {expectation.name} "
        f"({expectation.promise}): {first}; in the first, {expectation.reason(facts[finding.ids[0]], tokens)}; "
        f"fix the data, or set validate.on_failure.{expectation.name}: drop in params.yaml."
    )
