"""What a training block becomes for transformers, and what is refused before anything is loaded into a trainer."""

import pytest
from pydantic import ValidationError
from runs import config
from transformers import TrainingArguments

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.training.loop.arguments import training_arguments


def test_every_hyperparameter_arrives(tmp_path):
    """Each at a value that is not transformers' own, which would take the place of one that is forgotten."""
    alike = {
        **{"learning_rate": 3e-3, "num_train_epochs": 1.5, "max_steps": 7, "lr_scheduler_type": "cosine"},
        **{"weight_decay": 0.125, "max_grad_norm": 0.5, "adam_beta2": 0.95, "gradient_checkpointing": True},
    }
    block = config(**alike, batch_size=6, micro_batch_size=3, warmup_ratio=0.25)
    found = TrainingArguments(**training_arguments(block, 5, tmp_path, 9))
    assert {name: getattr(found, name) for name in alike} == alike
    assert (found.per_device_train_batch_size, found.per_device_eval_batch_size) == (6, 3)
    assert (found.get_warmup_steps(40), found.seed, found.data_seed, found.save_steps) == (10, 5, 5, 9)
    assert TrainingArguments(**training_arguments(config(), 5, tmp_path, 9)).max_steps == -1  # the epochs decide
    assert [training_arguments(config(bf16=half), 5, tmp_path, 9)["bf16"] for half in (False, True)] == [False, True]


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


def test_of_fsdp_only_the_second_form_is_let_through(monkeypatch, tmp_path):
    """`accelerate launch` without a launcher of ours takes the first, whose weights are saved otherwise."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert training_arguments(config(), 5, tmp_path, 1)["learning_rate"] == config().learning_rate
    for other in ({"FSDP_VERSION": "1"}, {"FSDP_VERSION": "2", "ACCELERATE_USE_FSDP": "1"}):
        for variable, value in other.items():
            monkeypatch.setenv(variable, value)
        with pytest.raises(UserError, match="ACCELERATE_USE_FSDP"):
            training_arguments(config(), 5, tmp_path, 1)


def test_a_constant_learning_rate_has_no_warmup():
    """transformers ignores it there."""
    with pytest.raises(
        ValidationError, match=r"constant has no warm-up; write constant_with_warmup, or warmup_ratio: 0\.0"
    ):
        config(lr_scheduler_type="constant", warmup_ratio=0.1)
    config(lr_scheduler_type="constant", warmup_ratio=0.0)
    config(lr_scheduler_type="constant_with_warmup", warmup_ratio=0.1)
