"""What a training stage refuses before it loads anything into a trainer."""

import pytest
from pydantic import ValidationError
from runs import config

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.training.loop.arguments import training_arguments


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


def test_a_constant_learning_rate_has_no_warmup():
    """transformers ignores it there."""
    with pytest.raises(
        ValidationError, match=r"constant has no warm-up; write constant_with_warmup, or warmup_ratio: 0\.0"
    ):
        config(lr_scheduler_type="constant", warmup_ratio=0.1)
    config(lr_scheduler_type="constant", warmup_ratio=0.0)
    config(lr_scheduler_type="constant_with_warmup", warmup_ratio=0.1)
