"""A generation: prompts, the present policy's answers to them, their scores and their log-probs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from epsilon_dpo.methods.online import Answers
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Messages
from epsilon_dpo.training.alignment.reference_model import ReferenceModel
from epsilon_dpo.training.loop.micro_batches import cut_by_length
from epsilon_dpo.training.online.answer_logps import AnswerLogps, AnswerTokens, Row
from epsilon_dpo.training.online.prompts import Prompt

SHOWN = 80  # characters of a prompt in a refusal


class DrawnAnswer(Protocol):
    """Token ids (with the stop token if it was reached), the text of them, and whether the stop token was reached."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def text(self) -> str: ...
    @property
    def ended(self) -> bool: ...


# The policy, prompts as token ids and a seed for each to an answer for each; prompts and answers to scores.
DrawAnswers = Callable[[PreTrainedModel, Sequence[Sequence[int]], Sequence[int]], Sequence[DrawnAnswer]]
ScoreAnswers = Callable[[Sequence[Messages], Sequence[str]], list[float]]


@dataclass(frozen=True)
class Generation:
    """n answers, those of a prompt side by side; `metrics` are [n] each, in float64 on the CPU."""

    rows: list[Row]
    answers: Answers
    metrics: dict[str, Tensor]


class Rollouts:
    """Draws generations.

    Args:
        micro_batch: answers whose log-probs are taken at once.
    """

    def __init__(
        self,
        draw: DrawAnswers,
        score: ScoreAnswers,
        logps: AnswerLogps,
        reference: ReferenceModel,
        micro_batch: int,
    ) -> None:
        self.draw, self.score, self.logps = draw, score, logps
        self.reference, self.micro_batch = reference, micro_batch

    @torch.no_grad()
    def __call__(self, model: PreTrainedModel, prompts: Sequence[Prompt], k: int, seeds: Sequence[int]) -> Generation:
        """k answers to each of `prompts`, by the present weights of `model`, which is left in evaluation mode.

        Args:
            seeds: one per answer.

        Raises:
            UserError: the scorer did not give each answer a finite number.
        """
        asked = [prompt for prompt in prompts for _ in range(k)]
        model.eval()
        with self.logps.accelerator.autocast():
            drawn = self.draw(model, [prompt.ids for prompt in asked], seeds)
        scores = self.score([prompt.messages for prompt in asked], [answer.text for answer in drawn])
        _refuse_what_is_no_score(scores, asked)
        rows = [(prompt.ids, answer.ids) for prompt, answer in zip(asked, drawn, strict=True)]
        tokens = self._tokens(model, rows)
        assert tokens.reference is not None
        answers = Answers(
            scores=torch.tensor(scores, dtype=torch.float64),
            policy=tokens.policy,
            reference=tokens.reference,
            mask=tokens.mask,
            ended=torch.tensor([answer.ended for answer in drawn]),
            values=tokens.values,
        )
        return Generation(rows, answers, _metrics(answers, tokens, k))

    def cut(self, rows: Sequence[Row]) -> list[list[int]]:
        """Micro-batches of `rows`, as places in them, neighbours in length."""
        lengths = [len(prompt) + len(answer) for prompt, answer in rows]
        return cut_by_length(lengths, math.ceil(len(rows) / self.micro_batch), min(self.micro_batch, len(rows)))

    def _tokens(self, model: PreTrainedModel, rows: Sequence[Row]) -> AnswerTokens:
        """Of all answers of the generation, on the CPU."""
        cut = self.cut(rows)
        parts = [self.logps(model, [rows[place] for place in places], self.reference) for places in cut]
        order = torch.tensor([place for places in cut for place in places]).argsort()
        longest = max(part.mask.shape[1] for part in parts)

        def whole(fields: Sequence[Tensor | None]) -> Tensor | None:
            if fields[0] is None:
                return None
            wide = [torch.nn.functional.pad(x, (0, longest - x.shape[1])).cpu() for x in fields if x is not None]
            return torch.cat(wide)[order]

        return AnswerTokens(*(whole(fields) for fields in zip(*parts, strict=True)))  # type: ignore[arg-type]


def _refuse_what_is_no_score(scores: Sequence[float], asked: Sequence[Prompt]) -> None:
    if len(scores) != len(asked):
        raise UserError(f"The scorer gave {len(scores)} scores to {len(asked)} answers; choose another scorer.source.")
    for score, prompt in zip(scores, asked, strict=True):
        if not math.isfinite(score):
            text = prompt.messages[-1]["content"]
            shown = text if len(text) <= SHOWN else text[:SHOWN] + "..."
            raise UserError(
                f"The scorer gave {score} to an answer to the prompt {shown!r} (row {prompt.id}), and a reward must be "
                "a finite number; choose another scorer.source in params.yaml."
            )


def _metrics(answers: Answers, tokens: AnswerTokens, k: int) -> dict[str, Tensor]:
    """What is logged of each answer, [n]; the KLs are in nats per answer, summed over its tokens.

    Of the three estimates of the KL to the reference `kl/rev` alone (exact at each token) cannot be negative and is
    the least noisy; `kl/rev_k1` is the log-ratio itself, which the reward contains, `kl/rev_k3` is exp(-d) - 1 + d.
    """
    assert tokens.kl_rev is not None and tokens.kl_fwd is not None
    change, lengths = answers.logratios, answers.mask.sum(1)
    found = {
        "reward": answers.scores,
        "reward_std": answers.scores.std(correction=0).expand(len(lengths)),
        "kl/rev": tokens.kl_rev.clamp(min=0.0).sum(1),  # float32 rounds some of 1e-7 below 0
        "kl/rev_k1": change.sum(1),
        "kl/rev_k3": ((-change).exp() - 1.0 + change).sum(1),
        "kl/fwd_own": tokens.kl_fwd.clamp(min=0.0).sum(1),
        "entropy": tokens.entropy.sum(1) / lengths,
        "tokens/answer": lengths.double(),
        "truncated": (~answers.ended).double(),
    }
    if k > 1:
        groups = answers.scores.reshape(-1, k)
        found["no_spread"] = (groups.max(1).values == groups.min(1).values).double().repeat_interleave(k)
    return found
