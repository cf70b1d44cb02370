"""An optimizer step is one mean over its pairs, however they are split into micro-batches."""

import math

import pytest
import torch
from runs import (
    ALPHA_DPO,
    AMAPO,
    BETA_DPO,
    DPO,
    EPSILON_DPO,
    FORWARD,
    GAMMA_DPO,
    GAMMA_SIMPO,
    KTO,
    MADPO,
    RRHF,
    SOFT,
    TDPO,
    WPO,
    assert_same_training,
)

from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.stage.files import read_jsonl
from epsilon_dpo.training.alignment.pair_metrics import Totals

pytestmark = pytest.mark.numeric

# 5 steps, the first of them at learning rate 0, without checkpoints.
FIVE_STEPS = {"dtype": torch.float64, "count": 20, "num_train_epochs": 1.0, "save_steps": 100}
SPLITS = [(4, 1), (1, 4)]  # of the 4 pairs of a step: pairs in a micro-batch, micro-batches


def test_means_do_not_depend_on_the_split():
    values = torch.arange(7.0, dtype=torch.float64)
    means = []
    for split in ([7], [2, 2, 3], [1, 6]):
        totals = Totals()
        for part in values.split(split):
            totals.add({"x": part, "one": torch.ones_like(part)})
        means.append(totals.means())
    assert means == [{"x": 3.0, "one": 1.0}] * 3


SPLIT_ALIKE = [DPO, FORWARD, EPSILON_DPO, BETA_DPO, KTO, RRHF, SOFT, MADPO, WPO, TDPO]
COMPARED_IN_A_STEP = [ALPHA_DPO, GAMMA_SIMPO, GAMMA_DPO, AMAPO]


def named(entry):
    return "_".join([entry["method"], *(entry[key] for key in ("form", "smoothing") if key in entry)])


@pytest.mark.parametrize("entry", SPLIT_ALIKE, ids=named)
def test_accumulation_is_a_larger_batch(run, entry):
    """None of the steps is short. Of the methods that compare a step's pairs the next test says it."""
    steps = FIVE_STEPS | ({"num_train_epochs": 2.0} if entry == EPSILON_DPO else {})
    whole, split = (
        run(f"{size}x{count}", entry, batch_size=size * count, micro_batch_size=size, **steps) for size, count in SPLITS
    )
    assert_same_training(whole, split)
    if entry == EPSILON_DPO:
        assert len({row["eps/beta_next"] for row in read_jsonl(whole / "metrics.jsonl")}) > 3


@pytest.mark.parametrize("entry", COMPARED_IN_A_STEP, ids=named)
def test_pairs_are_compared_with_the_whole_step(run, monkeypatch, entry):
    """8 x 1, 2 x 4 and 1 x 8 pairs: the method sees all eight once a step, in one order, and trains the same."""
    kind, seen = type(method_of("x", entry)), []
    before_step = kind.before_step

    def noted(self, values, generator):
        seen[-1].append(values)
        return before_step(self, values, generator)

    def trained(size, count):
        seen.append([])
        split = {"batch_size": size * count, "micro_batch_size": size}
        return run(f"{size}x{count}", entry, **FIVE_STEPS | {"count": 32}, **split)

    monkeypatch.setattr(kind, "before_step", noted)
    whole = trained(8, 1)
    for size, count in ((2, 4), (1, 8)):
        assert_same_training(whole, trained(size, count))
    for steps in seen:
        assert [len(values) for values in steps] == [8] * 4
        torch.testing.assert_close(torch.stack(steps), torch.stack(seen[0]), rtol=1e-4, atol=1e-6)
    assert all(values.std() > 1e-3 for values in seen[0][2:])  # the first update is one of learning rate 0


WAYS_TO_LOGPS = [DPO, EPSILON_DPO, KTO, SOFT, TDPO, RRHF]  # the other methods go one of these


@pytest.mark.parametrize(
    "entry",
    [
        entry if entry in WAYS_TO_LOGPS else pytest.param(entry, marks=pytest.mark.campaign)
        for entry in (*SPLIT_ALIKE, *COMPARED_IN_A_STEP)
    ],
    ids=named,
)
def test_a_shared_prompt_is_one_that_is_run_twice(run, entry):
    twice, once = (run(f"{share}", entry, share_prompt=share, **FIVE_STEPS) for share in (False, True))
    assert_same_training(twice, once, tokens_seen=False)


@pytest.mark.parametrize("entry", [DPO, BETA_DPO, KTO, RRHF, MADPO, *COMPARED_IN_A_STEP], ids=named)
def test_a_short_window_is_averaged_over_what_it_holds(run, entry):
    """7 pairs: 3 micro-batches of 2 and one of 1 are one step over 7 pairs, though 8 micro-batches were allowed."""
    settings = FIVE_STEPS | {"count": 7, "num_train_epochs": 3.0}
    short = run("short", entry, batch_size=16, micro_batch_size=2, **settings)
    whole = run("whole", entry, batch_size=7, micro_batch_size=7, **settings)
    assert_same_training(whole, short)


@pytest.mark.parametrize("entry", [BETA_DPO, *COMPARED_IN_A_STEP], ids=named)
def test_an_epoch_may_end_with_a_step_of_one_pair(run, entry):
    """Which has no standard deviation, and nothing to be compared with."""
    settings = {"batch_size": 2, "micro_batch_size": 1, "num_train_epochs": 3.0}
    rows = read_jsonl(run("odd", entry, count=5, **settings) / "metrics.jsonl")
    assert len(rows) == 9 and all(math.isfinite(value) for row in rows for value in row.values())
