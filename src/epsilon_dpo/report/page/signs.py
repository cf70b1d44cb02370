"""Values as the page prints them: with one minus sign, the typographer's, everywhere."""


def fixed(x: float, digits: int, plus: bool = False) -> str:
    """`−6.537` for (-6.5371, 3); with `plus` also `+1.250`. What rounds to 0 has no minus."""
    text = f"{x:+.{digits}f}" if plus else f"{x:.{digits}f}"
    if float(text) == 0.0:
        text = text.replace("-", "+" if plus else "")
    return text.replace("-", "−")
