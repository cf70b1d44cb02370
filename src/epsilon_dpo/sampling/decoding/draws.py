"""Answers of a model in memory, for a training that needs its own policy's: the sampler of the stages, without files.

Temperature 1 and nothing else shapes the distribution; only the eos token ends an answer.
"""

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from epsilon_dpo.sampling.decoding.decoding import decode
from epsilon_dpo.sampling.decoding.noise import GumbelNoise
from epsilon_dpo.sampling.decoding.params import Stop
from epsilon_dpo.sampling.decoding.stops import Stops


class Drawn(NamedTuple):
    ids: list[int]  # with the stop token, if it was reached
    text: str  # without special tokens, stripped
    ended: bool  # by the stop token, and not by its length


class Draw:
    """Draws answers; the random numbers of each are its own (noise.py), so that the batch changes none."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_new_tokens: int, batch_size: int) -> None:
        self.stops = Stops(tokenizer, Stop(tokens=[], strings=[]))
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size

    def __call__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[Drawn]:
        """An answer per prompt (token ids), in the order given; `model` must be in evaluation mode."""
        choose = GumbelNoise(list(seeds), 1.0, model.device)
        asked = [list(prompt) for prompt in prompts]
        found = dict(decode(model, asked, choose, self.stops, self.max_new_tokens, self.batch_size))
        answers = [found[place] for place in range(len(asked))]
        return [Drawn(ids, self.stops.text(ids), self.stops(ids)) for ids in answers]
