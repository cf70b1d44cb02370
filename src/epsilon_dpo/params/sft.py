"""`sft`: supervised fine-tuning on the chosen answers; its result is the reference policy."""

from epsilon_dpo.params.strict import Seed, Strict, Threads
from epsilon_dpo.params.tokens import Tokens
from epsilon_dpo.params.training import Adaptable


class SFT(Adaptable):
    completion_only_loss: bool  # false: the prompt's tokens are trained too


class SFTView(Strict):
    """What stages/sft.py reads."""

    seed: Seed
    threads: Threads
    tokens: Tokens
    sft: SFT
