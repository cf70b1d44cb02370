"""Great Expectations on a table in memory, and the stable part of what it finds (no times, no random ids)."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
from great_expectations.core.batch_definition import BatchDefinition

FIRST_IDS = 5  # of what fails in a whole column


@dataclass(frozen=True)
class Finding:
    """What Great Expectations decided.

    Attributes:
        kind: its name for the expectation, e.g. expect_column_values_to_be_between.
        success: its verdict.
        evaluated: rows that were looked at.
        failing: rows that fail; 0 for an expectation about the whole table.
        ids: those rows in table order: all of them, or of a column the first FIRST_IDS, by place.
        observed: the value of an expectation about the whole table, 0 if the table is empty; None for one about rows.
    """

    kind: str
    success: bool
    evaluated: int
    failing: int
    ids: list[Any]
    observed: float | None


def evaluate(
    rows: list[dict[str, Any]], columns: list[str], expectations: dict[str, gxe.Expectation]
) -> dict[str, Finding]:
    """Each expectation, by its key, on the table of `rows` (one record each, with at least `columns` and `id`).

    Raises:
        RuntimeError: an expectation could not be evaluated: a column is missing or holds a null.
    """
    table = pd.DataFrame(rows, columns=columns)
    complete = {"result_format": "COMPLETE", "unexpected_index_column_names": ["id"]}
    found = _validate(table, expectations, complete)
    names = {key: result.result.get("unexpected_index_list") or [] for key, result in found.items()}
    return {key: _finding(result, len(table), [entry["id"] for entry in names[key]]) for key, result in found.items()}


def evaluate_column(name: str, values: np.ndarray, expectation: gxe.Expectation) -> Finding:
    """The expectation on one column of an entire split; of rows that fail only the first are named, by place.

    Raises:
        RuntimeError: as `evaluate`.
    """
    summary = {"result_format": "SUMMARY", "partial_unexpected_count": FIRST_IDS}
    result = _validate(pd.DataFrame({name: values}), {"": expectation}, summary)[""]
    return _finding(result, len(values), list(result.result.get("partial_unexpected_index_list") or []))


@cache
def _whole_table() -> BatchDefinition[Any]:
    """Made once: making one writes the context's whole configuration out three times, a third of an evaluation."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("pairs")
    return asset.add_batch_definition_whole_dataframe("all")


def _validate(table: pd.DataFrame, expectations: dict[str, gxe.Expectation], form: Any) -> dict[str, Any]:
    """Results as the library gives them, in the order of `expectations`: it sorts them by column."""
    if table.isna().any(axis=None):
        raise RuntimeError(f"Nulls in {list(table.columns[table.isna().any()])}: Great Expectations would skip them.")
    definition = _whole_table()
    batch = definition.get_batch({"dataframe": table})
    suite = gx.ExpectationSuite(name="contract")
    for key, expectation in expectations.items():
        suite.add_expectation(expectation.copy(update={"meta": {"key": key}}))
    results: list[Any] = batch.validate(suite, result_format=form).results
    # It keeps the table, and what was computed of it by the asset's name, which is the next one's too.
    definition.data_asset.datasource._execution_engine = None
    for result in results:
        if result.exception_info.get("raised_exception", True):  # one that was raised in a metric lacks the key
            config = result.expectation_config
            raise RuntimeError(f"{config.type} on {config.kwargs} could not be evaluated: {result.exception_info}")
    found = {result.expectation_config.meta["key"]: result for result in results}
    return {key: found[key] for key in expectations}


def _finding(result: Any, rows: int, ids: list[Any]) -> Finding:
    about_rows = "unexpected_count" in result.result
    failing = int(result.result["unexpected_count"]) if about_rows else 0
    observed = None if about_rows else float(result.result["observed_value"] or 0)
    return Finding(result.expectation_config.type, bool(result.success), rows, failing, ids, observed)
