"""What a judge is asked and answers: every judge compares two answers to one prompt, whatever it is made of."""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple, Protocol

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Messages


class Question(NamedTuple):
    """Which of two answers to one prompt is better? The prompt's last message is the user's."""

    prompt: Messages
    a: str
    b: str


@dataclass(frozen=True)
class Verdict:
    """Both orders of one question, and what the judge could see of it.

    Attributes:
        f_ab, f_ba: nats by which the answer in the first place is better, with a first, and with b first: f_ab > 0 and
            f_ba < 0 both prefer a. A judge of single answers has f_ba = -f_ab.
        len_a, len_b: the answers' tokens before truncation, in the judge's tokenizer; characters for a judge without
            one at hand (what stands between spaces is a whole answer in some languages).
        trunc_source, trunc_a, trunc_b: whether the text was cut to its budget.
        refused: the judge gave no answer, or none that could be read, in one order or both. Then f_ab = f_ba = 0, a
            tie: what one order says alone is also what its position says.
        score_a, score_b: what each answer is worth by itself, f_ab = score_a - score_b, from a judge of single answers;
            None from one that can only compare.
        probability_a, probability_b: P(the answer is of the wanted class), from a classifier; None from any other.
    """

    f_ab: float
    f_ba: float
    len_a: int
    len_b: int
    trunc_source: bool = False
    trunc_a: bool = False
    trunc_b: bool = False
    refused: bool = False
    score_a: float | None = None
    score_b: float | None = None
    probability_a: float | None = None
    probability_b: float | None = None

    @property
    def logit(self) -> float:
        """f_ab - f_ba: a *sum* over both orders, exactly antisymmetric; P(a is better) = sigmoid(logit / 2)."""
        return self.f_ab - self.f_ba


class Judge(Protocol):
    """A judge, ready to use. Swapping a and b flips a logit's sign to the last bit; two identical answers tie."""

    def compare(self, questions: list[Question]) -> list[Verdict]:
        """A verdict per question, in the order given."""

    def rank(self, prompts: list[Messages], candidates: list[list[str]]) -> list[list[float]]:
        """A score per candidate of each prompt, comparable within the prompt; higher is better. NaN: it refused all
        comparisons of this candidate."""

    def usage(self) -> dict[str, float]:
        """What the verdicts given so far cost, by metric name; empty for a judge that runs on this machine."""


def require_finite(scores: list[float]) -> list[float]:
    """`scores`, as a model gave them: NaN would count as a lost comparison.

    Raises:
        UserError: one of them is no finite number.
    """
    if not all(map(math.isfinite, scores)):
        raise UserError(
            "the judge's model gives scores that are no finite numbers, as an overflow or damaged weights make them; "
            "set judge.dtype: float32 where judge.source is reward_model, or choose another judge."
        )
    return scores


def rank_by_comparison(judge: Judge, prompts: list[Messages], candidates: list[list[str]]) -> list[list[float]]:
    """LLM-Blender's `rank(return_scores=True)` for any judge that compares.

    score_i = (1/n) sum_j (M[i, j] - M[j, i]) with M[i, j] = f(i, j) and a zero diagonal: the mean logit against all n
    candidates, i itself among them (divided by n, not n - 1). Identical candidates have identical scores, because each
    pair of texts is judged once. A refused comparison is left out of the mean: it says nothing, and not that both are
    equally good.
    """
    questions = [
        Question(prompt, first, second)
        for prompt, texts in zip(prompts, candidates, strict=True)
        for first, second in combinations(dict.fromkeys(texts), 2)
    ]
    verdicts = iter(judge.compare(questions))
    scores = []
    for texts in candidates:
        logits = {(text, text): 0.0 for text in texts}
        for first, second in combinations(dict.fromkeys(texts), 2):
            verdict = next(verdicts)
            if not verdict.refused:
                logits |= {(first, second): verdict.logit, (second, first): -verdict.logit}
        scores.append([_mean_logit(text, texts, logits) for text in texts])
    return scores


def _mean_logit(text: str, texts: list[str], logits: dict[tuple[str, str], float]) -> float:
    """Against all of `texts` that it was compared with; NaN: there are other texts, and it was compared with none."""
    compared = [other for other in texts if (text, other) in logits]
    if len(set(texts)) > 1 and set(compared) == {text}:
        return math.nan
    return sum(logits[text, other] for other in compared) / len(compared)
