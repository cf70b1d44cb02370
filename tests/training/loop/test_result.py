"""What a training leaves: no number that is none, neither in a row of its log nor after its last step."""

import math
import types

import pytest

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.training.loop.metrics_jsonl import MetricStream
from epsilon_dpo.training.loop.result import write_result

BROKEN = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("value", BROKEN)
def test_a_training_that_diverged_in_its_last_step_leaves_nothing(tmp_path, value):
    """Its rows are those before that step: only the evaluation tells."""
    found = {"eval_entropy": 1.5, "eval_loss": value, "eval_runtime": 0.5}
    trainer, tracked = types.SimpleNamespace(evaluate=lambda: found), []
    with pytest.raises(UserError, match=f"eval_loss is {value} after the last step: the training diverged; lower its"):
        write_result(trainer, None, tmp_path, lambda *row: tracked.append(row), {})
    assert not tracked and not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", BROKEN)
def test_a_row_with_a_number_that_is_none_stops_the_training(tmp_path, value):
    rows = [{"loss": 0.5, "entropy": 1.5, "step": 2}, {"loss": 0.5, "entropy": value, "step": 3}]
    state, tracked = types.SimpleNamespace(is_world_process_zero=True, log_history=rows[:1]), []
    stream = MetricStream(tmp_path / "metrics.jsonl", lambda *row: tracked.append(row))
    stream.on_log(None, state, None)
    state.log_history = rows
    with pytest.raises(UserError, match=f"entropy became {value} at step 3; lower its learning_rate"):
        stream.on_log(None, state, None)
    assert tracked == [({"entropy": 1.5, "loss": 0.5}, 2)]
    assert len((tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()) == 1
