"""`decoding` of external/params.yaml: how a policy answers each benchmark."""

from typing import Annotated

from pydantic import Field

from epsilon_dpo.external.benchmarks.params import PositiveInt, Runs
from epsilon_dpo.pipeline.stage.params import Seed, Strict, Threads
from epsilon_dpo.sampling.decoding.params import Stop

Temperature = Annotated[float, Field(ge=0.0, le=100.0)]  # 0: greedy; at most what `sample.temperature` may be


class Decoding(Strict):
    temperature: Temperature
    max_new_tokens: PositiveInt
    batch_size: PositiveInt


class DecodingByCategory(Strict):
    """MT-Bench samples creative categories and decodes the others greedily."""

    temperature: dict[str, Temperature]
    max_new_tokens: PositiveInt
    batch_size: PositiveInt


class Decodings(Strict):
    stop: Stop  # of all benchmarks: it belongs to the policy
    alpaca_eval: Decoding
    arena_hard: Decoding
    mt_bench: DecodingByCategory


class AnswersView(Strict):
    """What external/answers.py reads; of `decoding` and `runs`, only the entries of its own run."""

    seed: Seed
    threads: Threads
    decoding: Decodings
    runs: Runs
