"""Resampled means against exact enumeration of all resamples, closed forms and scipy's bootstrap."""

import time
from itertools import product

import numpy as np
import pytest
from scipy.stats import bootstrap, norm, t

from epsilon_dpo.analysis.intervals.bootstrap import cluster_bootstrap, ends, prompt_counts


def test_the_ends_are_quantiles_of_all_resamples():
    """Three prompts with 1, 2 and 3 records: 27 equally likely resamples, each a ratio of totals."""
    values, prompts = [1.0, 0.0, 0.5, 1.0, 1.0, 0.0], ["a", "b", "b", "c", "c", "c"]
    totals, sizes = np.array([1.0, 0.5, 2.0]), np.array([1, 2, 3])
    drawn = np.array(list(product(range(3), repeat=3)))
    every = np.sort(totals[drawn].sum(1) / sizes[drawn].sum(1))
    level = norm.cdf(np.sqrt(3 / 2) * t.ppf(0.3, 2))  # 0.40 confidence, for three prompts
    estimate = cluster_bootstrap(values, prompts, 0.4, 40_000, 1)
    assert estimate.value == 3.5 / 6 and estimate.n == 3
    assert estimate.low == every[int(27 * level)] and estimate.high == every[int(27 * (1 - level))]


def test_it_is_scipys_percentile_bootstrap_of_prompt_means_but_for_the_level():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(40, 3))
    wide = float(1 - 2 * norm.cdf(np.sqrt(40 / 39) * t.ppf(0.025, 39)))
    theirs = bootstrap(
        (values.mean(1),), np.mean, confidence_level=wide, n_resamples=40_000, method="percentile", rng=generator
    ).confidence_interval
    ours = cluster_bootstrap(values.ravel(), np.repeat(np.arange(40), 3), 0.95, 40_000, 2)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert wide == pytest.approx(0.9595, abs=1e-4)


def test_answers_to_one_prompt_are_one_observation():
    """Each record three times under its prompt changes nothing; as prompts of their own it narrows by sqrt(3)."""
    values = np.random.default_rng(3).choice([0.0, 0.5, 1.0], 80)
    once = cluster_bootstrap(values, np.arange(80), 0.95, 4000, 1)
    assert cluster_bootstrap(np.repeat(values, 3), np.repeat(np.arange(80), 3), 0.95, 4000, 1) == once
    apart = cluster_bootstrap(np.repeat(values, 3), np.arange(240), 0.95, 4000, 1)
    assert (once.high - once.low) / (apart.high - apart.low) == pytest.approx(3**0.5, rel=0.05)


def test_the_order_of_records_and_the_names_of_prompts_do_not_matter_but_the_seed_does():
    values, prompts = np.random.default_rng(4).normal(size=60), np.repeat(np.arange(20), 3)
    found = cluster_bootstrap(values, prompts, 0.9, 500, 7)
    order = np.random.default_rng(5).permutation(60)
    shuffled = cluster_bootstrap(values[order], [f"hh/{prompt:02}" for prompt in prompts[order]], 0.9, 500, 7)
    assert (shuffled.low, shuffled.high) == pytest.approx((found.low, found.high), abs=1e-12)
    assert cluster_bootstrap(values, prompts, 0.9, 500, 8).low != found.low


def test_ten_thousand_draws_of_seven_hundred_prompts_take_a_second_and_little_memory():
    start = time.process_time()
    blocks = [counts.shape for counts in prompt_counts(700, 10_000, 0)]
    assert time.process_time() - start < 2.0  # about 0.3 s on a quiet core
    assert sum(rows for rows, _ in blocks) == 10_000 and max(rows * m for rows, m in blocks) <= 2**21
    assert all(np.all(counts.sum(1) == 9) for counts in prompt_counts(9, 50, 0, width=2**20))


def test_a_sample_without_spread_is_a_point():
    prompts = np.repeat(np.arange(20), 2)
    assert cluster_bootstrap(np.full(40, 0.1), prompts, 0.95, 100, 0).named("x") == {
        "x": pytest.approx(0.1), "x_low": pytest.approx(0.1), "x_high": pytest.approx(0.1), "x_n": 20
    }  # fmt: skip


def test_equal_values_lie_within_their_ends_however_their_sum_is_rounded():
    """The mean of fifteen times 0.1 is not 0.1; an end on its other side would be an error bar of negative length."""
    found = [cluster_bootstrap(np.full(m, 0.1), np.arange(m), 0.95, 50, 0) for m in range(2, 60)]
    assert all(one.low <= one.value <= one.high for one in found)


@pytest.mark.parametrize(
    ("values", "prompts", "draws", "message"),
    [
        ([0.0, 1.0], ["a", "a"], 10, "at least two"),
        ([1.0, 1.0], ["a", "a"], 10, "at least two"),
        ([], [], 10, "not empty"),
        ([1.0, 0.0], ["a"], 10, "one length"),
        ([1.0, float("nan")], ["a", "b"], 10, "not all finite"),
        ([1.0, 0.0], ["a", "b"], 0, "no interval"),
    ],
)
def test_what_has_no_interval_is_refused(values, prompts, draws, message):
    with pytest.raises(ValueError, match=message):
        cluster_bootstrap(values, prompts, 0.95, draws, 0)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_a_confidence_is_a_share(confidence):
    with pytest.raises(ValueError, match=rf"{confidence} is not in \(0, 1\)"):
        ends(np.zeros((5, 2)), confidence, 10)
