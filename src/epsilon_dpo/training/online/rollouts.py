"""A generation: prompts, the present policy's answers to them, their scores and their log-probs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedModel

from epsilon_dpo.methods.online import Answers
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Messages
from epsilon_dpo.training.alignment.reference_model import ReferenceModel
from epsilon_dpo.training.loop.micro_batches import share_of
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

        Each process draws and scores its share, and knows the whole generation afterwards.

        Args:
            seeds: one per answer.

        Raises:
            UserError: the scorer did not give each answer a finite number.
        """
        asked = [prompt for prompt in prompts for _ in range(k)]
        accelerator = self.logps.accelerator
        places = range(accelerator.process_index, len(asked), accelerator.num_processes)
        shares = [self._share(model, asked, seeds, places)] if places else []
        if accelerator.num_processes > 1:
            shares = gather_object(shares)
        order = torch.tensor([place for share in shares for place in share.places]).argsort()
        tokens = _joined([share.tokens for share in shares], order)
        assert tokens.reference is not None
        drawn = [answer for share in shares for answer in zip(share.rows, share.scores, share.ended, strict=True)]
        rows, scores, ended = zip(*(drawn[int(place)] for place in order), strict=True)
        answers = Answers(
            scores=torch.tensor(scores, dtype=torch.float64),
            policy=tokens.policy,
            reference=tokens.reference,
            mask=tokens.mask,
            ended=torch.tensor(ended),
            values=tokens.values,
        )
        return Generation(list(rows), answers, _metrics(answers, tokens, k))

    def _share(
        self, model: PreTrainedModel, asked: Sequence[Prompt], seeds: Sequence[int], places: Sequence[int]
    ) -> "_Share":
        """What one process draws of a generation: an answer to each of `asked` at `places`."""
        prompts = [asked[place] for place in places]
        model.eval()
        with self.logps.accelerator.autocast():
            drawn = self.draw(model, [prompt.ids for prompt in prompts], [seeds[place] for place in places])
        scores = self.score([prompt.messages for prompt in prompts], [answer.text for answer in drawn])
        _refuse_what_is_no_score(scores, prompts)
        rows = [(prompt.ids, answer.ids) for prompt, answer in zip(prompts, drawn, strict=True)]
        return _Share(places, rows, list(scores), [answer.ended for answer in drawn], self._tokens(model, rows))

    def cut(self, rows: Sequence[Row], processes: int = 1, rank: int = 0) -> list[list[int]]:
        """Micro-batches of `rows`, as places in them, neighbours in length; those of one process if several share."""
        lengths = [len(prompt) + len(answer) for prompt, answer in rows]
        return share_of(lengths, self.micro_batch, processes, rank)

    def _tokens(self, model: PreTrainedModel, rows: Sequence[Row]) -> AnswerTokens:
        """Of all answers of the generation, on the CPU."""
        cut = self.cut(rows)
        parts = [self.logps(model, [rows[place] for place in places], self.reference) for places in cut]
        order = torch.tensor([place for places in cut for place in places]).argsort()
        return _joined(parts, order)


class _Share(NamedTuple):
    places: Sequence[int]  # in the generation
    rows: list[Row]
    scores: list[float]
    ended: list[bool]
    tokens: AnswerTokens


def _joined(parts: Sequence[AnswerTokens], order: Tensor) -> AnswerTokens:
    """The rows of `parts` one after another, then in `order`, on the CPU."""
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

    Of the three estimates of the KL to the reference `kl/rev`, exact at each token, is the least noisy; `kl/rev_k1`
    is the log-ratio itself, which the reward contains and which can be negative, `kl/rev_k3` is exp(-d) - 1 + d.
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
