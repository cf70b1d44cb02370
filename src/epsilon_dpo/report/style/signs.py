"""Values as the page prints them: with one minus sign, the typographer's, everywhere."""

from typing import Any


def fixed(x: float, digits: int, plus: bool = False) -> str:
    """`−6.537` for (-6.5371, 3); with `plus` also `+1.250`. What rounds to 0 has no minus."""
    text = f"{x:+.{digits}f}" if plus else f"{x:.{digits}f}"
    if float(text) == 0.0:
        text = text.replace("-", "+" if plus else "")
    return text.replace("-", "−")


def percent(share: float) -> str:
    """`52.1 %` for 0.5213."""
    return f"{fixed(100 * share, 1)} %"


def interval(row: dict[str, Any], name: str) -> str:
    """`49.8 to 54.4` for the ends of a share in a table's row, in percent."""
    return f"{fixed(100 * row[f'{name}_low'], 1)} to {fixed(100 * row[f'{name}_high'], 1)}"
