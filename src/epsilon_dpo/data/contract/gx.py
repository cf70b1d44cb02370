"""Great Expectations on a table in memory, and the stable part of what it finds (no times, no random ids)."""

from dataclasses import dataclass
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd


@dataclass(frozen=True)
class Finding:
    """What Great Expectations decided.

    Attributes:
        kind: its name for the expectation, e.g. expect_column_values_to_be_between.
        success: its verdict.
        evaluated: rows that were looked at.
        ids: all rows that fail, in table order; empty for an expectation about the whole table.
        observed: the value of an expectation about the whole table, 0 if the table is empty; None for one about rows.
    """

    kind: str
    success: bool
    evaluated: int
    ids: list[str]
    observed: float | None


def evaluate(
    rows: list[dict[str, Any]], columns: list[str], expectations: dict[str, gxe.Expectation]
) -> dict[str, Finding]:
    """Each expectation, by its key, on the table of `rows` (one record each, with at least `columns` and `id`).

    Raises:
        RuntimeError: an expectation could not be evaluated: a column is missing or holds a null.
    """
    table = pd.DataFrame(rows, columns=columns)
    if table.isna().any(axis=None):
        raise RuntimeError(f"Nulls in {list(table.columns[table.isna().any()])}: Great Expectations would skip them.")
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("pairs")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
    suite = gx.ExpectationSuite(name="contract")
    for key, expectation in expectations.items():
        suite.add_expectation(expectation.copy(update={"meta": {"key": key}}))
    report = batch.validate(suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["id"]})
    results: list[Any] = report.results
    found = {result.expectation_config.meta["key"]: _finding(result, len(table)) for result in results}
    return {key: found[key] for key in expectations}  # in the order given: the library sorts by column


def _finding(result: Any, rows: int) -> Finding:
    config = result.expectation_config
    if result.exception_info.get("raised_exception", True):  # one that was raised in a metric lacks the key
        raise RuntimeError(f"{config.type} on {config.kwargs} could not be evaluated: {result.exception_info}")
    failing = [entry["id"] for entry in result.result.get("unexpected_index_list") or []]
    about_rows = "unexpected_count" in result.result
    observed = None if about_rows else float(result.result["observed_value"] or 0)
    return Finding(config.type, bool(result.success), rows, failing, observed)
