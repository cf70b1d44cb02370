"""Entries of online runs, and a made-up reward, that the tests of this folder share."""

from collections.abc import Sequence
from typing import Any

RLOO = {"method": "rloo", "beta": 0.1, "k": 3, "prompts_per_step": 4, "steps": 12, "max_new_tokens": 8}
PPO = RLOO | {"method": "ppo", "k": 2, "epochs": 2, "minibatches": 2, "adaptive_kl": 0.05, "steps": 8}


def worth(prompts: Sequence[Any], answers: Sequence[str]) -> list[float]:
    """The share of an answer's tokens that are w1 to w30, the lower half of the vocabulary."""
    return [sum(int(token[1:]) <= 30 for token in text.split()) / 8 for text in answers]
