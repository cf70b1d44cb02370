"""What a step on a GPU costs the host, on the stand-in of gpu_stand_in.py."""

import sys
from collections import Counter
from itertools import pairwise

import pytest
from runs import EPSILON_DPO

pytestmark = pytest.mark.skipif("gpu_stand_in" not in sys.modules, reason="tests/test_gpu_stand_in.py runs it")


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_what_stops_the_host(run, micro_batches):
    """In each step: the copy of a micro-batch's ids and masks; where the answers' tokens lie, by policy, reference and
    labels; means before and after the step and of the logged row; the row's loss and gradient norm."""
    from gpu_stand_in import STOPS

    seen = []
    settings = {"count": 32, "batch_size": 8, "micro_batch_size": 8 // micro_batches, "max_steps": 4}
    run("stops", EPSILON_DPO, track=lambda metrics, step: seen.append(Counter(STOPS)), **settings)
    steps = [after - before for before, after in pairwise(seen[:4])]  # the last row evaluates
    of_micro_batches = dict.fromkeys(("copy to the GPU", "aten.index.Tensor"), 3 * micro_batches)
    assert steps == [of_micro_batches | {"tolist": 3, "aten._local_scalar_dense.default": 2}] * 3
