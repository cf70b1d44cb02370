"""How an alt text tells what a figure shows: each policy where they are few, else the lowest, the highest and counts.

Whoever hears it instead of seeing the figure cannot skim; so it is short, and the tables have the rest.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from epsilon_dpo.report.style.signs import fixed

LIMIT = 320  # characters


def fitting(*texts: str) -> str:
    """The first of `texts`, which go from the fullest to the shortest, within LIMIT; the last if none is."""
    return next((text for text in texts if len(text) <= LIMIT), texts[-1])


def span(values: Mapping[str, float], form: Callable[[float], str]) -> str:
    """`47.5 % (tr_dpo) to 52.1 % (dpo)`, the lowest and the highest by name; one value where they print alike."""
    low, high = (find(values, key=lambda name: values[name]) for find in (min, max))
    if form(values[low]) != form(values[high]):
        return f"{form(values[low])} ({low}) to {form(values[high])} ({high})"
    return form(values[low]) + (f" (all {len(values)})" if len(values) > 1 else f" ({low})")


def ends(values: Iterable[float], form: Callable[[float], str]) -> str:
    """`47.5 % to 52.1 %`, the lowest and the highest; one value where they print alike."""
    found = sorted(values)
    return " to ".join(dict.fromkeys(form(end) for end in (found[0], found[-1])))


def movement(lines: Iterable[Sequence[float]]) -> str:
    """`up in all 3`, `down in all 3`, `up in 2 of 3`: whether lines end above their start."""
    found = list(lines)
    down = [line[-1] < line[0] for line in found]
    if all(down):
        return f"down in {counted(down)}"
    return f"up in {counted(line[-1] > line[0] for line in found)}"


def counted(those: Iterable[bool]) -> str:
    """`all 3`, `none of 3`, `2 of 3`: how many are true; of one `1 of 1`."""
    found = list(those)
    if all(found) and len(found) > 1:
        return f"all {len(found)}"
    return f"{sum(found) or 'none'} of {len(found)}"


def against_half(intervals: list[tuple[float, float]]) -> str:
    """How many of the intervals (low, high) of win rates leave out one half, and on which side."""
    above, below = [low > 0.5 for low, _ in intervals], [high < 0.5 for _, high in intervals]
    if not any(above + below):
        return "no interval excludes 50 %"
    sides = [f"{side} 50 %: {counted(those)}" for side, those in (("above", above), ("below", below)) if any(those)]
    return f"intervals {', '.join(sides)}"


def nats(x: float) -> str:
    return f"{fixed(x, 2)} nats"
