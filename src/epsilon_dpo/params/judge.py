"""`judge`: the pairwise scorer, PairRM's weights or a small PairRM trained on the training pairs."""

from typing import Annotated, Literal

from pydantic import Field

from epsilon_dpo.params.strict import Strict
from epsilon_dpo.params.training import Training

Size = Annotated[int, Field(ge=1)]


class TrainedJudge(Training):
    """A PairRM-architecture model from random weights, and its tokenizer, both trained on the training pairs."""

    source: Literal["trained"]
    vocab_size: Annotated[int, Field(ge=100)]
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    source_max_length: Size
    candidate_max_length: Size
    batch_size: Size  # pairs at once when scoring


class PretrainedJudge(Strict):
    """PairRM from the Hub at a pinned commit or from a local folder, safetensors only."""

    source: Literal["pretrained"]
    path: str  # llm-blender/PairRM-hf
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None  # null only for a local folder
    source_max_length: Size  # 1224 upstream
    candidate_max_length: Size  # 412 upstream
    batch_size: Size


class JudgeView(Strict):
    """What stages/judge.py reads."""

    seed: int
    threads: int
    judge: Annotated[TrainedJudge | PretrainedJudge, Field(discriminator="source")]
