"""validation.html: the outcome of the contract on one self-contained page.

Not Great Expectations' own data docs, which load fonts and styles from the network and carry times.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from epsilon_dpo.data.facts.rows import Row

SHOWN = 200  # dropped rows on the page; dropped.jsonl holds all


def page(result: dict[str, Any], dropped: Iterable[Row], dataset: dict[str, Any]) -> str:
    """The page.

    Args:
        result: the content of validation.json.
        dropped: the rows of dropped.jsonl, iterated twice.
        dataset: the content of dataset.json.
    """
    environment = Environment(
        loader=PackageLoader("epsilon_dpo.data.contract", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:,.10g}".replace("-", "−")
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for finding in result["expectations"]:
        by_split = rows.setdefault(finding["expectation"].replace("min_train", "min").replace("min_eval", "min"), {})
        by_split[finding["split"]] = finding
    dropped_by = Counter(entry["expectation"] for entry in dropped)
    return environment.get_template("page.html.jinja").render(
        result=result,
        expectations=rows,
        dropped=list(islice(dropped, SHOWN)),
        dropped_total=dropped_by.total(),
        dropped_by=dropped_by.most_common(),
        before=Counter(dataset.get("dropped", {})),
        origin=sorted((key, value) for key, value in dataset.items() if isinstance(value, str | int | float | list)),
    )
