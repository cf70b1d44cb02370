"""RRHF (Yuan et al. 2023, arXiv 2304.05302): rank the better answer higher by mean log-prob per token.

A hinge without margin ranks the two answers, and an SFT term keeps the chosen one likely. No reference.

Differences from the paper: it ranks any number of answers by their scores and fits the best one, here there are two;
`lam` weighs the SFT term (the paper adds it with weight 1, its code gives the ranking 100), and that term is by default
a mean per token instead of a sum (`sft_reduction: sum` is the paper's).
"""

from typing import Annotated

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, SFTReduction, nll


class RRHFConfig(MethodConfig):
    lam: Annotated[float, Field(ge=0.0)]  # weight of the SFT term
    sft_reduction: SFTReduction = "mean"


class RRHF(Method[RRHFConfig]):
    Config = RRHFConfig
    needs_reference = False

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        # relu: once the chosen answer is ahead, and at a tie, the ranking has no gradient and only the SFT term pulls.
        ranking = (rejected.per_token - chosen.per_token).relu()
        sft = nll(chosen, self.config.sft_reduction)
        return PairLoss(
            losses=ranking + self.config.lam * sft,
            chosen_rewards=chosen.per_token.detach(),
            rejected_rewards=rejected.per_token.detach(),
            metrics={"nll_loss": sft.detach()},
        )


METHOD = RRHF
