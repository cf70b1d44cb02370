"""`judge`: the pairwise scorer, PairRM's weights or a small PairRM trained on the training pairs."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from epsilon_dpo.params.strict import Strict
from epsilon_dpo.params.training import Training

Size = Annotated[int, Field(ge=1)]
Length = Annotated[int, Field(ge=4)]  # [CLS], a marker, one token, [SEP]
Confidence = Annotated[float, Field(gt=0.0, lt=1.0)]  # of the intervals in out/judge/metrics.json


class TrainedJudge(Training):
    """A PairRM-architecture model from random weights, and its tokenizer, both trained on the training pairs."""

    source: Literal["trained"]
    vocab_size: Annotated[int, Field(ge=100)]
    hidden_size: Size  # a multiple of num_attention_heads
    intermediate_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    position_buckets: Size  # of relative distances; 256 in PairRM
    initializer_range: Annotated[float, Field(gt=0.0)]
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    source_max_length: Length
    candidate_max_length: Length
    batch_size: Size  # pairs at once when scoring
    confidence: Confidence

    @model_validator(mode="after")
    def _heads_share_the_hidden_size(self) -> "TrainedJudge":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads")
        return self


class PretrainedJudge(Strict):
    """PairRM from the Hub at a pinned commit or from a local folder, safetensors only."""

    source: Literal["pretrained"]
    path: str  # llm-blender/PairRM-hf
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None  # null only for a local folder
    source_max_length: Length  # 1224 upstream
    candidate_max_length: Length  # 412 upstream
    budget: Literal["example", "batch"]  # whose source leaves an answer its room; batch is upstream's compare
    batch_size: Size
    confidence: Confidence


class JudgeView(Strict):
    """What stages/judge.py reads."""

    seed: int
    threads: int
    judge: Annotated[TrainedJudge | PretrainedJudge, Field(discriminator="source")]
