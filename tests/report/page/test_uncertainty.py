"""What the variance of a win rate consists of: by hand, and where all seeds answer with the same random numbers."""

import numpy as np
import pytest

from epsilon_dpo.report.page.uncertainty import parts
from epsilon_dpo.report.page.variance import split_variance

SIGN = np.array([-1.0, 1.0])


def found(wins: np.ndarray) -> dict[str, float]:
    return {" and ".join(part.sources): part.variance for part in parts(wins)}


def test_all_five_parts_by_hand() -> None:
    """Seeds ±1, prompts ±2, both ±.5; the nth answers of both seeds ±.25, judged ±.125; an order's ±3 is none of them.

    Mean squares: seeds 16, prompts 64, both 4, over 16 numbers. The mean of the seeds: judgements 8 (.125²) on three
    degrees of freedom, over 8 numbers; answers .25 apart from their prompt's mean.
    """
    s, p, c, o = (SIGN.reshape(shape) for shape in [(2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2)])
    split = found(10 + s + 2 * p + 0.5 * s * p + 0.25 * c + 0.125 * c * o + 3 * o)
    judging = 0.125**2 / 3
    both = 2 * 0.25**2 / 4  # sampling and judging
    assert split == pytest.approx(
        {
            "training": (16 - 4) / 16,
            "prompt": (16 + 64 - 4) / 16 - 12 / 16 - 4 / 16 - both,
            "interaction": 4 / 16,
            "sampling": both - judging,
            "judging": judging,
        }
    )


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((3, 5, 2, 2), ["training", "prompt", "interaction", "sampling", "judging"]),
        ((3, 5, 2, 1), ["training", "prompt", "interaction", "sampling"]),
        ((3, 5, 1, 2), ["training", "prompt and interaction and sampling", "judging"]),
        ((1, 5, 2, 2), ["prompt", "sampling", "judging"]),
        ((1, 5, 1, 1), ["prompt and sampling"]),
    ],
)
def test_what_the_design_cannot_tell_apart_is_one_part(shape: tuple[int, ...], names: list[str]) -> None:
    assert list(found(np.random.default_rng(0).random(shape))) == names


@pytest.mark.parametrize("common", [0.0, 0.8, 1.0])
def test_noise_that_seeds_share_is_not_averaged_over_them(common: float) -> None:
    """Three seeds, 40 prompts, two answers: a share `common` of the noise of sampling and judging is all seeds' own.

    Taken for independent, it would be a third, and the rest would be laid on the prompts.
    """
    generator, (a, b, c, o) = np.random.default_rng(1), (3, 40, 2, 2)
    deviations = {"training": 0.2, "prompt": 0.5, "interaction": 0.4, "sampling": 0.6, "judging": 0.4}
    squares = {name: deviation**2 for name, deviation in deviations.items()}
    left = common + (1.0 - common) / a  # of a noise, in the mean over seeds
    truth = {
        "training": squares["training"] / a,
        "prompt": squares["prompt"] / b,
        "interaction": squares["interaction"] / (a * b),
        "sampling": squares["sampling"] * left / (b * c),
        "judging": squares["judging"] * left / (b * c * o),
    }

    def noise(deviation: float, judgements: int) -> np.ndarray:
        shared, own = generator.normal(0.0, deviation, (1, b, c, judgements)), (a, b, c, judgements)
        return np.sqrt(common) * shared + np.sqrt(1.0 - common) * generator.normal(0.0, deviation, own)

    splits = []
    for _ in range(600):
        y = 0.6 + generator.normal(0.0, 0.2, (a, 1, 1, 1)) + generator.normal(0.0, 0.5, (1, b, 1, 1))
        y = y + generator.normal(0.0, 0.4, (a, b, 1, 1)) + noise(0.6, 1) + noise(0.4, o)
        splits.append(found(y))
    for name, expected in truth.items():
        values = [split[name] for split in splits]
        error = np.std(values) / np.sqrt(len(values))
        assert np.mean(values) == pytest.approx(expected, abs=3.0 * error + 0.02 * expected), name


def test_the_parts_are_no_more_than_the_variance() -> None:
    """Two prompts that both win once: nothing is left for prompts, nor as much for sampling as one alone says."""
    wins = np.array([[[1.0, 0.0], [0.0, 1.0]]])[..., None]
    assert sum(found(wins).values()) == pytest.approx(split_variance(wins).standard_error ** 2, abs=1e-15)
    generator = np.random.default_rng(0)
    for _ in range(50):
        wins = generator.integers(0, 2, (2, 3, 2, 2)).astype(float)
        total = sum(found(wins).values())
        assert min(found(wins).values()) >= 0.0
        expected = max(split_variance(wins).standard_error ** 2, found(wins)["training"])
        assert total == pytest.approx(expected, abs=1e-12)
