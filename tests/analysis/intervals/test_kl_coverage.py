"""How often the interval of a mean KL holds the true one, simulated: before, mean ± t standard errors, and now.

The default's KLs by prompt, as measured in one run, are the population, or a lognormal distribution of like skewness
with 1 to 5 answers to a prompt that have most of their KL in common. The table in docs/statistics.md is compared.
"""

import functools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from epsilon_dpo.analysis.intervals.rates import Estimate, mean, per_prompt, skewed_mean

ROOT = Path(__file__).parents[3]
PROMPTS = (8, 32, 128, 256)
REPETITIONS = 2000
# Of 256 prompts in rising order: 15 means of 16 of them each, then the 16 largest.
MEASURED = {
    "DPO, `kl_fwd_rb`": (
        [0.87, 1.08, 1.16, 1.24, 1.3, 1.37, 1.45, 1.53, 1.62, 1.71, 1.85, 1.98, 2.12, 2.36, 2.69],
        [3.02, 3.1, 3.13, 3.15, 3.18, 3.23, 3.88, 4.0, 4.11, 4.22, 4.82, 5.14, 5.29, 7.47, 8.7, 9.18],
    ),
    "DPO, `kl_rev_rb`": (
        [0.61, 0.74, 0.81, 0.86, 0.89, 0.93, 0.98, 1.03, 1.07, 1.1, 1.16, 1.24, 1.3, 1.37, 1.53],
        [1.72, 1.73, 1.86, 1.99, 2.19, 2.28, 2.4, 2.51, 2.77, 2.91, 2.94, 3.02, 3.21, 4.58, 5.17, 6.07],
    ),
    "TR-DPO, `kl_rev_rb`": (
        [0.89, 1.1, 1.25, 1.32, 1.37, 1.43, 1.52, 1.6, 1.68, 1.73, 1.81, 1.92, 2.07, 2.35, 3.32],
        [4.55, 5.18, 5.83, 5.98, 6.13, 6.42, 7.78, 8.06, 8.15, 8.37, 8.49, 8.73, 9.79, 10.29, 14.77, 18.77],
    ),
}
LOGNORMAL = "lognormal, several answers"
Sample = tuple[list[float], list[int]]  # values and the prompt of each


def of_measured(name: str, prompts: int, rng: np.random.Generator) -> tuple[Sample, float]:
    means, largest = MEASURED[name]
    population = np.append(np.repeat(means, 16), largest)
    return (rng.choice(population, prompts).tolist(), list(range(prompts))), float(population.mean())


def of_lognormal(prompts: int, rng: np.random.Generator) -> tuple[Sample, float]:
    of = np.repeat(np.arange(prompts), rng.integers(1, 6, prompts))
    logs = 0.8 * rng.normal(size=prompts)[of] + 0.4 * rng.normal(size=len(of))
    return (np.exp(logs).tolist(), of.tolist()), float(np.exp(0.4))  # half of 0.8² + 0.4²


@functools.cache
def coverage(name: str, prompts: int) -> tuple[float, float]:
    """Shares of the repetitions in which the interval holds the true mean: before, now."""
    rng = np.random.default_rng(prompts)
    draw = of_lognormal if name == LOGNORMAL else functools.partial(of_measured, name)
    held = np.zeros(2)
    for _ in range(REPETITIONS):
        (values, of), truth = draw(prompts, rng)
        clusters = per_prompt(values, of)
        intervals: tuple[Callable[..., Estimate], ...] = (mean, skewed_mean)
        found = [interval(clusters, 0.95) for interval in intervals]
        held += [one.low <= truth <= one.high for one in found]
    return tuple((held / REPETITIONS).tolist())


@pytest.mark.parametrize("name", [*MEASURED, LOGNORMAL])
def test_it_covers_more_often_than_students_t_and_nearly_95_percent_of_256_prompts(name: str) -> None:
    found = {prompts: coverage(name, prompts) for prompts in PROMPTS}
    assert all(now >= before for before, now in found.values()), found
    assert found[256][1] >= 0.935 > found[256][0] and found[128][1] >= 0.92, found


def test_the_table_of_the_docs_is_what_these_intervals_do() -> None:
    text = (ROOT / "docs/statistics.md").read_text("utf-8")
    rows = dict(re.findall(rf"^\| ({'|'.join(map(re.escape, [*MEASURED, LOGNORMAL]))}) \| (.+) \|$", text, re.M))
    assert set(rows) == {*MEASURED, LOGNORMAL}
    for name, shares in rows.items():
        expected = [f"{before:.3f} → {now:.3f}" for before, now in (coverage(name, prompts) for prompts in PROMPTS)]
        assert shares.split(" | ") == expected, name
