"""`sft`: supervised fine-tuning on the chosen answers; its result is the reference policy.

`sft: null`: the reference is the base model itself.
"""

from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.pipeline.stage.params import Seed, Strict, Threads
from epsilon_dpo.training.loop.params import Adaptable


class SFT(Adaptable):
    completion_only_loss: bool  # false: the prompt's tokens are trained too


class SFTView(Strict):
    """What stages/sft.py reads."""

    seed: Seed
    threads: Threads
    tokens: Tokens
    sft: SFT | None  # null: no training, the base model is the reference
