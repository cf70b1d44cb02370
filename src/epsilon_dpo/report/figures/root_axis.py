"""An axis of KL on a scale of square roots, on which a policy that is trained at a steady pace moves steadily."""

from itertools import pairwise
from math import sqrt

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

MOST_TICKS = 9


def root_axis(panel: Axes, right: float, room: float) -> None:
    """Let the x axis of `panel` be one of roots from 0 to `right` nats; `room` as in `root_ticks`."""
    panel.set_xscale("function", functions=(_root, _square))
    panel.set_xlim(-((0.04 * sqrt(right)) ** 2), right)
    ticks = root_ticks(right, room)
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def _root(x: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(x, float)  # an estimate of KL, or the end of its interval, can lie below 0
    return np.sign(values) * np.sqrt(np.abs(values))


def _square(x: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(x, float)
    return np.sign(values) * values**2


def root_ticks(largest: float, room: float) -> list[float]:
    """KLs 0, k², (2k)², ... up to `largest`: equally far apart on a scale of roots.

    Args:
        largest: nats, above 0.
        room: characters that fit below the axis; k is the smallest whose labels do not touch, of 1, 2, 5, 10, ...
    """
    for k in (digit * 10.0**exponent for exponent in range(-6, 7) for digit in (1, 2, 5)):
        steps = sqrt(largest) / k
        ticks = [float(f"{(number * k) ** 2:.10g}") for number in range(int(min(steps, MOST_TICKS)) + 1)]
        widest = max((len(f"{a:g}") + len(f"{b:g}") for a, b in pairwise(ticks)), default=0) / 2
        if steps < MOST_TICKS and room / steps > widest + 0.7:
            return ticks
    return [0.0]
