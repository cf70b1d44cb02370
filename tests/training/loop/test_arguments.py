"""What a training stage refuses before it loads anything into a trainer."""

import pytest

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.training.loop.arguments import training_arguments


def test_deepspeed_is_refused(monkeypatch, tmp_path):
    """It would train, then save empty weights."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="without DeepSpeed"):
        training_arguments(None, 5, tmp_path)
