"""The promises that only repetition can check: intervals cover, tests keep their level, components are unbiased.

Every simulation has a known truth and a fixed seed. A share of N repetitions is held to its promise within three
standard errors of such a share, sqrt(p (1 - p) / N). The naive alternative, where there is one, must fail the same
check: the simulation could tell.
"""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.special import expit

from epsilon_dpo.analysis.intervals.bootstrap import cluster_bootstrap
from epsilon_dpo.analysis.intervals.win_rates import win_rate
from epsilon_dpo.judging.scoring.length import length_controlled
from epsilon_dpo.judging.tournament.ranking import expected_win_rates, ranking
from epsilon_dpo.report.page.paired import n_needed, outcome_of, sign_flip, verdicts
from epsilon_dpo.report.page.variance import split_variance

pytestmark = [pytest.mark.slow, pytest.mark.campaign]
CONFIDENCE, LEVEL = 0.95, 0.05


def margin(share: float, repetitions: int) -> float:
    return 3.0 * math.sqrt(share * (1.0 - share) / repetitions)


def covers(truth: float, low: float, high: float) -> bool:
    return low <= truth <= high


def answers(generator, easiness, ties):
    """Wins of one answer per entry of `easiness`, the chance to win without a tie."""
    won = (generator.random(easiness.shape) < easiness).astype(float)
    return np.where(generator.random(easiness.shape) < ties, 0.5, won)


@pytest.mark.parametrize(
    ("m", "sizes", "mean", "ties"),
    [(25, [3], 0.6, 0.2), (200, [3], 0.6, 0.2), (100, [1, 2, 6], 0.6, 0.2), (200, [3], 0.9, 0.1), (200, [3], 0.6, 0.0)],
)
def test_the_cluster_bootstrap_covers(m, sizes, mean, ties):
    """Prompts differ widely (a beta distribution of chances), so that answers to one are far from independent."""
    generator, n = np.random.default_rng(0), 1500
    truth = 0.5 * ties + (1.0 - ties) * mean
    covered, naive = 0, 0
    for seed in range(n):
        prompts = np.repeat(np.arange(m), generator.choice(sizes, m))
        wins = answers(generator, generator.beta(mean, 1.0 - mean, m)[prompts], ties)
        estimate = cluster_bootstrap(wins, prompts, CONFIDENCE, 1000, seed)
        covered += covers(truth, estimate.low, estimate.high)
        records = win_rate(wins, np.arange(len(wins)), CONFIDENCE)
        naive += covers(truth, records.low, records.high)
    assert covered / n == pytest.approx(CONFIDENCE, abs=margin(CONFIDENCE, n))
    assert naive / n < CONFIDENCE - margin(CONFIDENCE, n)


@pytest.mark.parametrize(("sizes", "spread"), [([3], 1.0), ([1, 2, 6], 1.0), ([1, 2, 6], 0.1), ([1] * 9 + [20], 0.5)])
@pytest.mark.parametrize("mean", [0.6, 0.97, 0.99])
def test_the_interval_of_a_win_rate_covers_with_several_answers_per_prompt(mean, sizes, spread):
    """Also near 1, where the bootstrap covers 82 to 89 %. The smaller the spread, the more a prompt decides alone."""
    generator, n, m, ties = np.random.default_rng(9), 600, 60, 0.02
    truth = 0.5 * ties + (1.0 - ties) * mean
    covered, resampled = 0, 0
    for seed in range(n):
        prompts = np.repeat(np.arange(m), generator.choice(sizes, m))
        easiness = generator.beta(spread * mean, spread * (1.0 - mean), m)
        wins = answers(generator, easiness[prompts], ties)
        estimate = win_rate(wins, prompts, CONFIDENCE)
        covered += covers(truth, estimate.low, estimate.high)
        bootstrap = cluster_bootstrap(wins, prompts, CONFIDENCE, 300, seed)
        resampled += covers(truth, bootstrap.low, bootstrap.high)
    assert covered / n >= CONFIDENCE - margin(CONFIDENCE, n) / 3.0
    assert resampled / n < (0.97 if mean == 0.6 else 0.9)


@pytest.mark.parametrize(("answers_each", "ties"), [(1, 0.0), (1, 0.2), (3, 0.2)])
def test_the_paired_test_keeps_its_level_and_its_interval_covers(answers_each, ties):
    """Two policies equally good, but on other prompts: p <= 0.05 at most that often, and not much less."""
    generator, n, m = np.random.default_rng(1), 2000, 150
    prompts = np.repeat(np.arange(m), answers_each)
    rejected, naive, covered = 0, 0, 0
    for seed in range(n):
        shared, *own = generator.beta(1.2, 0.8, (3, m))
        first, second = (np.where(generator.random(m) < 0.5, shared, one)[prompts] for one in own)
        differences = answers(generator, first, ties) - answers(generator, second, ties)
        rejected += sign_flip(differences, prompts) <= LEVEL
        naive += sign_flip(differences, np.arange(len(differences))) <= LEVEL
        estimate = cluster_bootstrap(differences, prompts, CONFIDENCE, 500, seed)
        covered += covers(0.0, estimate.low, estimate.high)
    assert 0.6 * LEVEL < rejected / n <= LEVEL + margin(LEVEL, n)
    assert covered / n == pytest.approx(CONFIDENCE, abs=margin(CONFIDENCE, n))
    assert naive == rejected if answers_each == 1 else naive / n > LEVEL + margin(LEVEL, n)


def test_holm_keeps_the_chance_of_any_false_verdict():
    """Five equal policies, ten pairs: uncorrected, one of them looks better far more often than 5 %."""
    generator, n, m = np.random.default_rng(3), 400, 100
    false, uncorrected = 0, 0
    for _ in range(n):
        easiness = generator.beta(1.2, 0.8, m)
        wins = {name: answers(generator, easiness, 0.1) for name in "abcde"}
        found = verdicts(wins, np.arange(m), CONFIDENCE, 0.8)
        false += any(outcome_of(verdict.together) != "cannot be told apart" for verdict in found)
        uncorrected += any(verdict.p_value <= LEVEL for verdict in found)
    assert false / n <= LEVEL + margin(LEVEL, n)
    assert uncorrected / n > 2 * LEVEL


def test_n_needed_gives_the_power_it_promises():
    """A true difference of 0.1: as many prompts as its spread asks for find it in four cases of five."""
    generator, n = np.random.default_rng(4), 1500

    def differences(m):
        easiness = generator.beta(1.2, 0.8, m)
        return answers(generator, 0.15 + 0.85 * easiness, 0.1) - answers(generator, 0.85 * easiness + 0.0389, 0.1)

    population = differences(1_000_000)
    assert population.mean() == pytest.approx(0.1, abs=0.003)
    needed = n_needed(population, CONFIDENCE, 0.8)
    found = sum(sign_flip(differences(needed), range(needed)) <= LEVEL for _ in range(n))
    assert found / n == pytest.approx(0.8, abs=margin(0.8, n) + 0.01)  # the exact test is a little stricter


def test_n_needed_of_a_pair_among_many_knows_the_correction():
    """One run of four is worse by 0.1: the prompts for one of six pairs decide it, those for a lone pair do not."""
    generator, n = np.random.default_rng(6), 300

    def wins(m):
        easiness = generator.beta(1.2, 0.8, m)
        return {name: answers(generator, 0.85 * easiness + (0.0 if name == "d" else 0.1), 0.1) for name in "abcd"}

    def decides(m):
        found = verdicts(wins(m), range(m), CONFIDENCE, 0.8)
        together = next(verdict.together for verdict in found if (verdict.first, verdict.second) == ("a", "d"))
        return outcome_of(together) == "better"

    known = wins(200_000)
    # What `verdicts` states for one of six pairs (test_paired.py), and what it would for a lone one.
    among_six, alone = (n_needed(known["a"] - known["d"], level, 0.8) for level in (1.0 - LEVEL / 6, CONFIDENCE))
    assert np.mean([decides(among_six) for _ in range(n)]) >= 0.8 - margin(0.8, n)
    assert np.mean([decides(alone) for _ in range(n)]) < 0.8 - margin(0.8, n)


def test_bradley_terry_intervals_cover():
    """Four policies whose games on one prompt share a shift in favour of the first two."""
    generator, n, m = np.random.default_rng(5), 400, 100
    theta = np.array([0.8, 0.3, -0.2, -0.9])
    names, pairs = "abcd", list(combinations(range(4), 2))
    first, second = [names[i] for i, _ in pairs] * m, [names[j] for _, j in pairs] * m
    i, j = np.array(pairs).T
    prompts = np.repeat(np.arange(m), len(pairs))
    easiness = expit(theta[i] - theta[j])
    rates, covered = expected_win_rates(theta), np.zeros((4, 2))
    for seed in range(n):
        shared = generator.random((m, 1)) < 0.3  # one throw decides all games of such a prompt
        throw = np.where(shared, generator.random((m, 1)), generator.random((m, len(pairs))))
        ranked = ranking(first, second, (throw < easiness).astype(float).ravel(), prompts, CONFIDENCE, 400, seed)
        for run in ranked:
            k = names.index(run.name)
            covered[k] += [
                covers(theta[k], run.strength.low, run.strength.high),
                covers(rates[k], run.win_rate.low, run.win_rate.high),
            ]
    assert covered / n == pytest.approx(np.full((4, 2), CONFIDENCE), abs=margin(CONFIDENCE, n))


@pytest.mark.parametrize(("seeds", "training"), [(3, 0.03), (3, 0.15), (5, 0.05)])
def test_trainings_component_is_unbiased_and_the_interval_covers(seeds, training):
    generator, n, (b, c, o) = np.random.default_rng(6), 4000, (60, 2, 2)
    variances = [training**2, 0.3**2, 0.15**2, 0.3**2, 0.2**2]
    shapes = [(seeds, 1, 1, 1), (1, b, 1, 1), (seeds, b, 1, 1), (seeds, b, c, 1), (seeds, b, c, o)]
    raw, squared, rates, covered = [], [], [], 0
    for _ in range(n):
        effects = [generator.normal(0.0, math.sqrt(v), s) for v, s in zip(variances, shapes, strict=True)]
        split = split_variance(0.6 + sum(effects) + np.array([0.05, -0.05]))
        raw.append(split.training.raw)
        squared.append(split.standard_error**2)
        rates.append(split.win_rate)
        covered += covers(0.6, *split.interval(CONFIDENCE))
    assert np.mean(raw) == pytest.approx(training**2, abs=3 * np.std(raw) / math.sqrt(n))
    assert np.mean(squared) == pytest.approx(np.var(rates), rel=0.1)
    assert covered / n == pytest.approx(CONFIDENCE, abs=margin(CONFIDENCE, n) + 0.005)  # an approximation


@pytest.mark.parametrize("answers_each", [1, 3])
def test_the_length_controlled_rate_covers(answers_each):
    """Longer answers win and a's are longer: the plain rate is far from what equal lengths would give."""
    generator, n, m = np.random.default_rng(7), 1500, 200
    prompts = np.repeat(np.arange(m), answers_each)
    many = generator.normal(30.0, 60.0, 1_000_000)
    sd, covered, plain = many.std(), 0, 0
    for _ in range(n):
        longer = generator.normal(30.0, 60.0, len(prompts))
        shared = generator.random(m) < 0.5
        throw = np.where(shared[prompts], generator.random(m)[prompts], generator.random(len(prompts)))
        wins = (throw < expit(0.2 + np.tanh(longer / sd))).astype(float)
        a, b = 400.0 + longer, np.full(len(prompts), 400.0)
        found = length_controlled(wins, a, b, prompts, CONFIDENCE).win_rate
        covered += covers(expit(0.2), found.low, found.high)
        unadjusted = win_rate(wins, prompts, CONFIDENCE)
        plain += covers(expit(0.2), unadjusted.low, unadjusted.high)
    assert covered / n == pytest.approx(CONFIDENCE, abs=margin(CONFIDENCE, n))
    assert plain / n < 0.8
