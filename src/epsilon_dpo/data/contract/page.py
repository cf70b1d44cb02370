"""validation.html: the outcome of the contract on one self-contained page.

Not Great Expectations' own data docs, which load fonts and styles from the network and carry times.
"""

from collections import Counter
from itertools import islice
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from epsilon_dpo.data.contract.contract import Outcome

SHOWN = 200  # dropped rows on the page; dropped.jsonl holds all


def page(outcome: Outcome, dataset: dict[str, Any]) -> str:
    """The page; `dataset` is the content of dataset.json."""
    environment = Environment(
        loader=PackageLoader("epsilon_dpo.data.contract", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:,.10g}".replace("-", "−")
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for finding in outcome.result["expectations"]:
        by_split = rows.setdefault(finding["expectation"].replace("min_train", "min").replace("min_eval", "min"), {})
        by_split[finding["split"]] = finding
    dropped_by = Counter(entry["expectation"] for entry in outcome.dropped)
    return environment.get_template("page.html.jinja").render(
        result=outcome.result,
        expectations=rows,
        dropped=list(islice(outcome.dropped, SHOWN)),
        dropped_total=dropped_by.total(),
        dropped_by=dropped_by.most_common(),
        origin=sorted((key, value) for key, value in dataset.items() if isinstance(value, str | int | float | list)),
    )
