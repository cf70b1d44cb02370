"""Draws from a distribution that more than the temperature shapes: top-p, top-k, min-p, a repetition penalty.

The processors are transformers' own, in the order in which its `generate` applies them: the penalty, the temperature,
top_k, top_p, min_p. What they leave is drawn from as ever (decoding/noise.py), with the same random numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from epsilon_dpo.sampling.answers.params import Logits
from epsilon_dpo.sampling.decoding.noise import GumbelNoise


class ProcessedNoise:
    """What `decode` takes as `choose`: processed logits plus Gumbel noise, one generator per prompt.

    Args:
        prompts: token ids; with what was drawn for each they are what the repetition penalty looks at.
    """

    def __init__(
        self,
        logits: Logits,
        temperature: float,
        prompts: Sequence[Sequence[int]],
        seeds: list[int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.noise = GumbelNoise(seeds, 1.0, device)  # the logits are divided by the temperature instead
        self.texts = [list(prompt) for prompt in prompts]
        self.penalty = logits.repetition_penalty
        self.warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(temperature)] if temperature != 1.0 else []
        if logits.top_k is not None:
            self.warpers.append(TopKLogitsWarper(logits.top_k))
        if logits.top_p < 1.0:
            self.warpers.append(TopPLogitsWarper(logits.top_p))
        if logits.min_p is not None:
            self.warpers.append(MinPLogitsWarper(logits.min_p))

    def __call__(self, scores: Tensor, rows: list[int]) -> Tensor:
        """Scores whose argmax is a draw, -inf where there is none; as GumbelNoise."""
        scores = scores.float()  # as `generate`: half precision would decide what a cut leaves
        if self.penalty != 1.0:
            scores = self._penalised(scores, rows)
        no_ids = torch.empty((len(rows), 0), dtype=torch.long)  # at which these do not look
        for warper in self.warpers:
            scores = warper(no_ids, scores)
        found = self.noise(scores, rows)
        for row, token in zip(rows, found.argmax(1).tolist(), strict=True):
            self.texts[row].append(token)
        return found

    def state(self, rows: list[int]) -> Tensor:
        """As GumbelNoise."""
        return self.noise.state(rows)

    def restore(self, rows: list[int], states: Tensor, drawn: Sequence[Sequence[int]]) -> None:
        """As GumbelNoise; `drawn` are the tokens of `rows` until then."""
        self.noise.restore(rows, states, drawn)
        for row, tokens in zip(rows, drawn, strict=True):
            self.texts[row].extend(tokens)

    def _penalised(self, scores: Tensor, rows: list[int]) -> Tensor:
        """As `generate` calls the processor: texts are padded on the left, and no pad is penalised."""
        longest = max(len(self.texts[row]) for row in rows)
        missing = [longest - len(self.texts[row]) for row in rows]
        padded = [[0] * pads + self.texts[row] for pads, row in zip(missing, rows, strict=True)]
        ids = torch.tensor(padded, device=scores.device)
        ignored = torch.tensor(missing, device=scores.device)
        found: Tensor = RepetitionPenaltyLogitsProcessor(self.penalty, prompt_ignore_length=ignored)(ids, scores)
        return found
