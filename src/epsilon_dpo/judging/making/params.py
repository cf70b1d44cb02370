"""`judge`, `teacher`: what compares two answers: PairRM, a reward model, a classifier (each may be trained here), an
endpoint."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from epsilon_dpo.models.base.params import Base, EmbeddedModel, PretrainedModel
from epsilon_dpo.pipeline.stage.params import COMMIT, Confidence, Seed, Strict, Threads
from epsilon_dpo.training.loop.params import Accelerated, Training

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=1, le=65_536)]
Length = Annotated[int, Field(ge=4, le=1_000_000)]  # [CLS], a marker, one token, [SEP]
# In a criterion that was copied with the template around it: a place for a text, as MT-Bench's {question} and
# AlpacaEval's {output_1}, or a verdict, as [[A]] and [[rating]]. The braces of \boxed{answer} are no place.
COPIED = re.compile(
    r"(?<!\w)\{+ *(?:question|prompt|instruction|dialogue|conversation|(?:answer|response|output|completion|summary)"
    r"(?:_?[ab12])?) *\}+|\[\[(?:[ABC]\b|rating)[^\]]*\]\]",
    re.IGNORECASE,
)
Revision = Annotated[str, Field(pattern=COMMIT)] | None  # a Hub commit; null only for a local folder


class TrainedJudge(Training):
    """A PairRM-architecture model from random weights, and its tokenizer, both trained on the training pairs.

    It scores `micro_batch_size` pairs at once, too.
    """

    source: Literal["trained"]
    vocab_size: Annotated[int, Field(ge=100, le=1_000_000)]
    hidden_size: Size  # a multiple of num_attention_heads
    intermediate_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    position_buckets: Annotated[int, Field(ge=2, le=65_536)]  # of distances to both sides; 256 in PairRM
    initializer_range: Annotated[float, Field(gt=0.0)]
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    source_max_length: Length
    candidate_max_length: Length
    # Of all examples, those at the beginning that are all mismatched (training_examples.py), as a share; and the share
    # of mismatched ones among the rest. An epoch is as many examples as there are pairs, of whichever kind.
    mismatched_first: Annotated[float, Field(ge=0.0, lt=1.0)]
    mismatched_share: Annotated[float, Field(ge=0.0, lt=1.0)]

    @model_validator(mode="after")
    def _heads_share_the_hidden_size(self) -> "TrainedJudge":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads")
        return self


class PretrainedJudge(Strict):
    """PairRM from the Hub at a pinned commit or from a local folder, safetensors only."""

    source: Literal["pretrained"]
    path: Text  # llm-blender/PairRM-hf, or the original llm-blender/PairRM
    revision: Revision
    source_max_length: Length  # 1224 upstream
    candidate_max_length: Length  # 412 upstream
    budget: Literal["example", "batch"]  # whose source leaves an answer its room; batch is upstream's compare
    batch_size: Count


class RewardModelJudge(Strict):
    """A scalar reward model with a chat template (Skywork-Reward-V2 and its like), from the Hub or a local folder."""

    source: Literal["reward_model"]
    path: Text
    revision: Revision
    dtype: Literal["float32", "bfloat16"]
    max_length: Annotated[int, Field(ge=16)]  # tokens of prompt and answer; longer ones lose their beginning
    batch_size: Count  # answers at once


class TrainedRewardJudge(Accelerated):
    """A scalar reward model, trained on the training pairs from a language model that is its own, not the policy's.

    It scores `micro_batch_size` answers at once, too.
    """

    source: Literal["trained_reward"]
    model: Base  # as block base: embedded, or pretrained from the Hub or a local folder
    max_length: Annotated[int, Field(ge=16)]  # tokens of prompt and answer; longer ones lose their beginning
    center_rewards_coefficient: Annotated[float, Field(ge=0.0)] | None  # of (r(chosen) + r(rejected))^2; null: none

    @model_validator(mode="after")
    def _the_model_has_the_positions(self) -> "TrainedRewardJudge":
        if isinstance(self.model, EmbeddedModel) and self.max_length > self.model.max_position_embeddings:
            raise ValueError(
                f"max_length = {self.max_length} exceeds model.max_position_embeddings = "
                f"{self.model.max_position_embeddings}; lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _its_weights_can_take_small_steps(self) -> "TrainedRewardJudge":
        if isinstance(self.model, PretrainedModel) and self.model.dtype != "float32":
            raise ValueError(
                f"model.dtype: {self.model.dtype} would train weights that keep two or three digits, so that steps of "
                "small learning rates are lost; set it to float32 (bf16: true still computes in bfloat16)"
            )
        return self


class SentimentJudge(Strict):
    """A sentiment classifier: trained here on the labelled texts of fetch.source: reviews, or VADER's rules."""

    source: Literal["sentiment"]
    classifier: Literal["tfidf", "vader"]
    clip: Annotated[float, Field(gt=0.0)]  # largest absolute score, nats: the logit of P(positive) is cut there


class LLMJudge(Strict):
    """A language model behind an OpenAI-compatible endpoint; its key is in OPENAI_API_KEY, never in this file."""

    source: Literal["llm"]
    base_url: str  # usually ends in /v1
    model: Text
    # By what it knows the better answer, a sentence or a rubric; null: CRITERION of llm_prompt.py, helpful, honest and
    # harmless. It stands before the rule that the reply is one letter, and must say nothing of the reply itself.
    criterion: str | None = None
    temperature: Annotated[float, Field(ge=0.0)] | None  # null: not sent, for models that refuse it
    max_tokens: Count  # 1 is enough for a model that answers with the letter at once
    concurrency: Annotated[int, Field(ge=1, le=1024)]  # questions asked at the same time
    timeout: Annotated[float, Field(gt=0.0)]  # seconds an answer may take
    usd_per_million_input_tokens: Annotated[float, Field(ge=0.0)] | None  # null: no cost is reported
    usd_per_million_output_tokens: Annotated[float, Field(ge=0.0)] | None

    @field_validator("base_url")
    @classmethod
    def _an_address_without_secrets(cls, value: str) -> str:
        """It is written to out/judge/judge.json, so nothing in it may be a secret."""
        try:
            parts = urlsplit(value)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number, a bracket without its end
            is_address = False
        if not is_address:
            raise ValueError("it must be an address such as https://api.openai.com/v1 or http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("it must hold no user, password or query; the key belongs into OPENAI_API_KEY")
        return value.rstrip("/")

    @field_validator("criterion")
    @classmethod
    def _a_criterion_and_no_template(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not value.strip():
            raise ValueError("it must say which answer is better; null takes the criterion of llm_prompt.py")
        if copied := COPIED.search(value):
            raise ValueError(
                f"{copied[0]} belongs to a template, and nothing is put in its place; keep only what says which answer "
                "is better, since the question, both answers and the form of the reply are added to it"
            )
        return value.strip()

    @model_validator(mode="after")
    def _both_prices_or_none(self) -> "LLMJudge":
        if (self.usd_per_million_input_tokens is None) != (self.usd_per_million_output_tokens is None):
            raise ValueError("state both prices, of input and of output tokens, or neither")
        return self


AnyJudge = TrainedJudge | PretrainedJudge | TrainedRewardJudge | RewardModelJudge | SentimentJudge | LLMJudge
BySource = Annotated[AnyJudge, Field(discriminator="source")]


class JudgeView(Strict):
    """What stages/judge.py reads."""

    seed: Seed
    threads: Threads
    confidence: Confidence
    judge: BySource  # scores all policies
    teacher: BySource | None  # what the policies learn from: ranks, margins, scores of answers; null: the judge
