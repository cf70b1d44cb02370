"""The hyperparameters that every training stage has, under transformers' names but for the two batch sizes."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from epsilon_dpo.pipeline.stage.params import Strict, load

Count = Annotated[int, Field(ge=1)]


class Training(Strict):
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    # The next three are not read by online runs, whose entries say how long they train and on how many answers.
    num_train_epochs: Annotated[float, Field(gt=0.0, le=1.0e6)]
    max_steps: Annotated[int, Field(ge=1)] | None  # optimizer steps; null: num_train_epochs decides
    batch_size: Count  # per optimizer step, of all processes: sequences in sft, pairs in align and judge
    # So many of the longest fit at once into a process's memory. It changes rounding alone, but for what is drawn in a
    # micro-batch: dropout, CRINGE's alternatives.
    micro_batch_size: Count
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"]
    # Share of the steps, rounded up; unless it is 0, the first step has learning rate 0.
    warmup_ratio: Annotated[float, Field(ge=0.0, lt=1.0)]
    weight_decay: Annotated[float, Field(ge=0.0)]
    max_grad_norm: Annotated[float, Field(gt=0.0)]
    adam_beta2: Annotated[float, Field(gt=0.0, lt=1.0)]

    @model_validator(mode="after")
    def _constant_has_no_warmup(self) -> Self:
        if self.lr_scheduler_type == "constant" and self.warmup_ratio:
            raise ValueError(
                "lr_scheduler_type: constant has no warm-up; write constant_with_warmup, or warmup_ratio: 0.0"
            )
        return self


def _modules(value: Any) -> Any:
    if value == "all-linear" or (isinstance(value, list) and value and all(isinstance(name, str) for name in value)):
        return value
    raise ValueError("write all-linear, or a list of names such as [q_proj, v_proj]")


class LoRA(Strict):
    """An adapter that is trained instead of the weights, under peft's names."""

    r: Count  # rank of the update of each module
    lora_alpha: Annotated[int, Field(ge=1)]  # the update is multiplied with lora_alpha / r
    lora_dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    # All projections but the output's, or names such as q_proj.
    target_modules: Annotated[str | list[str], BeforeValidator(_modules)]
    quantise: Literal["nf4"] | None  # QLoRA: the frozen weights in 4 bits during the training


class Accelerated(Training):
    """Training of the language model itself."""

    # Autocast; the weights stay as loaded: in base.dtype (a reward model's in judge.model.dtype), but float32 once an
    # adapter was merged (align after sft.lora).
    bf16: bool
    gradient_checkpointing: bool


class Adaptable(Accelerated):
    """Training of all weights of the language model, or of an adapter."""

    lora: LoRA | None  # null: all weights


class Checkpoints(Strict):
    save_steps: Count  # optimizer steps between two: what a crash loses at most


class CheckpointsView(Strict):
    """What `save_steps` reads."""

    checkpoints: Checkpoints


def save_steps() -> int:
    """How many optimizer steps lie between two checkpoints, of any training.

    It is read here and is the one value that a stage does not declare in dvc.yaml: a resumed training ends in the same
    bytes, so that no output depends on when checkpoints are written. Another value must neither train anything again,
    nor give up what a killed training has reached.

    Raises:
        UserError: params.yaml has no such value, or one that is refused.
    """
    return load(CheckpointsView).checkpoints.save_steps
