"""What a training stage refuses before it loads anything into a trainer."""

import pytest

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.training.loop.arguments import at_rows, training_arguments


def test_deepspeed_is_refused(monkeypatch, tmp_path):
    """It would train, then save empty weights."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="without DeepSpeed"):
        training_arguments(None, 5, tmp_path, 1)


@pytest.mark.parametrize(("variable", "value"), [("ACCELERATE_USE_FSDP", "1"), ("ACCELERATE_USE_MEGATRON_LM", "yes")])
def test_so_is_every_other_engine(variable, value, monkeypatch, tmp_path):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=variable):
        training_arguments(None, 5, tmp_path, 1)


def test_a_checkpoint_waits_for_the_end_of_a_logging_window():
    """The rest of the window would be logged as if it were the whole."""
    assert [at_rows(save_steps, 3) for save_steps in (1, 3, 4, 6, 100)] == [3, 3, 6, 6, 102]
    assert at_rows(4, 1) == 4
