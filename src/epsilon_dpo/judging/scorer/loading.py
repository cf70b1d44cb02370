"""One number per answer, for the online runs: the true reward of generated data, or a judge that scores single answers.

An empty answer is scored as any other: the true reward says -1.0 of it, a reward model whatever it makes of an empty
turn. The same text has the same score, whatever it is scored with, up to the rounding of a model's batches.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from epsilon_dpo.data.generated.truth import true_reward
from epsilon_dpo.judging.scorer.writing import JUDGE, SETTINGS
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Messages, read_json

Score = Callable[[Sequence[Messages], Sequence[str]], list[float]]  # prompts and an answer to each


def load_scorer(folder: Path) -> Score:
    """The scorer in `folder`, that of a method in out/scorer.

    Raises:
        UserError: it holds none, or a judge that this version cannot read.
    """
    settings = read_json(folder / SETTINGS)
    if settings["source"] is None:
        raise UserError(
            f"{folder} holds no scorer, which an online run needs; set scorer: {{source: true_reward}} or {{source: "
            "judge} in params.yaml and run `dvc repro`."
        )
    scored = _true_rewards if settings["source"] == "true_reward" else _judged(folder / JUDGE)
    clip = settings["clip"]
    if clip is None:
        return scored
    return lambda prompts, answers: [_clipped(score, clip) for score in scored(prompts, answers)]


def _clipped(score: float, clip: float) -> float:
    """What is not finite stays so, and is refused where scores are read."""
    return min(max(score, -clip), clip) if math.isfinite(score) else score


def _true_rewards(prompts: Sequence[Messages], answers: Sequence[str]) -> list[float]:
    return [true_reward(prompt[-1]["content"], text) for prompt, text in zip(prompts, answers, strict=True)]


def _judged(folder: Path) -> Score:
    from epsilon_dpo.judging.judges.loading import load_judge, teaching  # the true reward needs no model

    with teaching():
        judge = load_judge(folder)

    def scored(prompts: Sequence[Messages], answers: Sequence[str]) -> list[float]:
        with teaching():
            return [own for [own] in judge.rank(list(prompts), [[text] for text in answers])]

    return scored
