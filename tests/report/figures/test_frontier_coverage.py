"""How often the frontier's band and the hypervolume's interval hold the true ones, by simulation.

What was used before, quantiles of the staircase and the area of resampled prompts, is computed beside them: it fails
where policies are equally good. The table in docs/statistics.md is compared with both.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtri

from epsilon_dpo.analysis.intervals.bootstrap import ends, prompt_counts
from epsilon_dpo.analysis.intervals.rates import Estimate
from epsilon_dpo.report.figures.frontier import Frontier, Reference, attained, frontier, hypervolume

pytestmark = pytest.mark.slow
DOCS = Path(__file__).parents[3] / "docs" / "statistics.md"
PROMPTS, REPETITIONS, DRAWS = 200, 400, 400
SPREAD = (0.5, 1.0, 1.5, 2.5, 4.0)  # KLs, nats
# per setting of the docs: KLs, win rates, SFT's win rate, the KL up to which the hypervolume counts
SETTINGS = {
    "three, far apart": ((0.5, 1.5, 4.0), (0.6, 0.7, 0.8), 0.5, 6.0),
    "five, equally good": (SPREAD, (0.7,) * 5, 0.5, 6.0),
    "five, equally good at almost equal KL": ((1.0, 1.05, 1.1, 1.15, 1.2), (0.7,) * 5, 0.5, 2.0),
    "five, as good as SFT": (SPREAD, (0.5,) * 5, 0.5, 6.0),
    "five that win 97 %": (SPREAD, (0.97,) * 5, 0.5, 6.0),
}
Covered = tuple[float, float, float]  # shares of repetitions: band at its worst KL, at all, hypervolume


def policies(generator: np.random.Generator, cost: np.ndarray, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """KL and wins of each policy on each prompt, [points, prompts]: some prompts are hard for all."""
    hard = generator.standard_normal(PROMPTS)
    own = generator.standard_normal((len(cost), PROMPTS))
    kl = generator.gamma(2.0, cost[:, None] / 2.0, own.shape) * generator.uniform(0.5, 1.5, PROMPTS)
    return kl, (0.55 * hard + (1.0 - 0.55**2) ** 0.5 * own < ndtri(gain)[:, None]).astype(float)


def before(kl: np.ndarray, wins: np.ndarray, at: np.ndarray, reference: Reference, seed: int) -> Frontier:
    """Quantiles over resampled prompts, each KL and the area for itself."""
    (counts,) = prompt_counts(PROMPTS, DRAWS, seed)
    cost, gain = counts @ kl.T / PROMPTS, counts @ wins.T / PROMPTS
    drawn = list(zip(cost, gain, strict=True))
    low, high = ends(np.array([attained(x, y, at, reference.win_rate) for x, y in drawn]), 0.95, PROMPTS)
    least, most = ends(np.array([hypervolume(x, y, reference) for x, y in drawn]), 0.95, PROMPTS)
    area = hypervolume(kl.mean(1), wins.mean(1), reference)
    return Frontier(
        at, attained(kl.mean(1), wins.mean(1), at, reference.win_rate), low, high, Estimate(area, least, most, PROMPTS)
    )


@cache
def simulated(setting: str) -> tuple[Covered, Covered, float]:
    """Coverage before and now, and how many times as wide the hypervolume's interval has become."""
    costs, gains, floor, largest = SETTINGS[setting]
    cost, gain, reference = np.array(costs), np.array(gains), Reference(largest, floor)
    at = (cost + np.append(cost[1:], largest)) / 2.0  # between the policies, where the staircase is flat
    truth, area = attained(cost, gain, at, floor), hypervolume(cost, gain, reference)
    generator, band, volume, width = np.random.default_rng(8), [], [], []
    for seed in range(REPETITIONS):
        kl, wins = policies(generator, cost, gain)
        both = (
            before(kl, wins, at, reference, seed),
            frontier(kl, wins, np.ones(kl.shape[1]), at, reference, 0.95, DRAWS, seed),
        )
        band.append([(one.low <= truth) & (truth <= one.high) for one in both])
        volume.append([one.hypervolume.low <= area <= one.hypervolume.high for one in both])
        width.append([one.hypervolume.high - one.hypervolume.low for one in both])
    each, together = np.mean(band, 0).min(1), np.mean(np.all(band, 2), 0)
    found = np.stack([each, together, np.mean(volume, 0)], 1).tolist()
    first, second = np.mean(width, 0)
    return tuple(found[0]), tuple(found[1]), float(second / first)


@pytest.mark.parametrize("setting", SETTINGS)
def test_band_and_hypervolume_cover(setting: str) -> None:
    resampled, now, wider = simulated(setting)
    assert min(now) >= 0.95
    assert wider < 3.0
    if setting != "three, far apart":
        assert max(resampled) < 0.8, "what resampling does where policies are equally good"


def test_the_table_of_the_docs_is_what_they_do() -> None:
    rows = re.findall(r"^\| (three|five)(.*?) \| (.+) \|$", DOCS.read_text("utf-8"), re.MULTILINE)
    assert {number + rest for number, rest, _ in rows} == set(SETTINGS)
    for number, rest, cells in rows:
        resampled, now, wider = simulated(number + rest)
        expected = [x for pair in zip(resampled, now, strict=True) for x in pair]
        *shares, stated = (float(cell) for cell in re.findall(r"[\d.]+", cells))
        assert shares == pytest.approx(expected, abs=0.015) and stated == pytest.approx(wider, abs=0.06), number + rest
