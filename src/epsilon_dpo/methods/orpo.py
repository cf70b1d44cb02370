"""ORPO (Hong et al. 2024, arXiv 2403.07691): SFT on the chosen answer, with odds above the rejected one's.

The odds p / (1 - p) are those of p = exp(mean log-prob per token). The SFT term is the main one, with weight 1, and
`lam` weighs the logistic loss on the difference of the log-odds. No reference.

Differences from TRL: its SFT term runs over prompt and response, ours over the response as in the paper, by default as
a mean per answer (`sft_reduction: token_mean` weighs tokens alike, as TRL does); where p is practically 1 (an empty
answer, a degenerate one) our log-odds are finite with a finite gradient, TRL's gradient is NaN.
"""

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, SFTReduction, log_sigmoid, nll

if TYPE_CHECKING:
    from torch import Tensor

# Mean log-probs above this count as this: odds end at 10^6, and log(1 - p) at p = 1 would be infinite.
MAX_MEAN_LOGP = -1e-6


class ORPOConfig(MethodConfig):
    lam: Annotated[float, Field(ge=0.0)]  # weight of the odds-ratio term
    sft_reduction: SFTReduction = "mean"


def log1mexp(a: "Tensor") -> "Tensor":
    """log(1 - exp(a)) for a < 0, same shape; each branch loses its digits on the other's side of -ln 2.

    Neither branch may be infinite where the other is taken: `where` would multiply its gradient with 0 and give NaN.
    Hence a <= -1e-6 in float32.
    """
    near_zero = (-a.expm1()).log()
    far = (-a.exp()).log1p()
    return near_zero.where(a > -math.log(2.0), far)


def log_odds(mean_logps: "Tensor") -> "Tensor":
    """log(p / (1 - p)) of p = exp(mean_logps), same shape; without gradient where p is practically 1."""
    a = mean_logps.clamp(max=MAX_MEAN_LOGP)
    return a - log1mexp(a)


class ORPO(Method[ORPOConfig]):
    Config = ORPOConfig
    needs_reference = False

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        lam = self.config.lam
        sft = nll(chosen, self.config.sft_reduction)
        difference = log_odds(chosen.per_token) - log_odds(rejected.per_token)
        log_ratio = log_sigmoid(difference)
        return PairLoss(
            losses=sft - lam * log_ratio,
            chosen_rewards=lam * chosen.per_token.detach(),
            rejected_rewards=lam * rejected.per_token.detach(),
            metrics={
                "nll_loss": sft.detach(),
                # TRL's names: the difference of the log-odds, and its log sigmoid.
                "log_odds_chosen": difference.detach(),
                "log_odds_ratio": log_ratio.detach(),
            },
        )


METHOD = ORPO
