"""SimPO (Meng et al. 2024, arXiv 2405.14734, eq. 6): mean log-probs as rewards, no reference, and a target margin.

-log sigma(beta (a_w - a_l) - gamma), a being the mean log-prob of the answer's tokens. gamma is in units of the reward,
as in the paper; the released code is given `gamma_beta_ratio` = gamma / beta instead.

Differences from TRL's CPOTrainer(loss_type="simpo"): no NLL of the chosen answer, which TRL adds unless its cpo_alpha
is set to 0.
"""

from typing import Annotated

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, log_sigmoid


class SimPOConfig(MethodConfig):
    beta: Annotated[float, Field(gt=0.0)]
    gamma: Annotated[float, Field(ge=0.0)]  # margin of the rewards that is aimed at


class SimPO(Method[SimPOConfig]):
    Config = SimPOConfig
    needs_reference = False

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        beta = self.config.beta
        return PairLoss(
            losses=-log_sigmoid(beta * (chosen.per_token - rejected.per_token) - self.config.gamma),  # eq. 6
            chosen_rewards=beta * chosen.per_token.detach(),
            rejected_rewards=beta * rejected.per_token.detach(),
        )


METHOD = SimPO
