"""CPO (Xu et al. 2024, arXiv 2401.08417): DPO with a uniform reference, which cancels, and an SFT term in its place.

Differences from the paper and TRL: `lam` weighs the SFT term (the paper adds it with weight 1). That term is by default
a mean per token of each answer, a sum in the paper (`sft_reduction: sum`) and a mean over all tokens in TRL
(`token_mean`, over the whole optimizer step here and per micro-batch there).
"""

from typing import Annotated

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, SFTReduction, log_sigmoid, nll


class CPOConfig(MethodConfig):
    beta: Annotated[float, Field(gt=0.0)]
    lam: Annotated[float, Field(ge=0.0)]  # weight of the SFT term
    sft_reduction: SFTReduction = "mean"


class CPO(Method[CPOConfig]):
    Config = CPOConfig
    needs_reference = False

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        beta = self.config.beta
        sft = nll(chosen, self.config.sft_reduction)
        return PairLoss(
            losses=-log_sigmoid(beta * (chosen.policy - rejected.policy)) + self.config.lam * sft,
            chosen_rewards=beta * chosen.policy.detach(),
            rejected_rewards=beta * rejected.policy.detach(),
            metrics={"nll_loss": sft.detach()},
        )


METHOD = CPO
