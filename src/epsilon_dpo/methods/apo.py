"""APO (D'Oosterlinck et al. 2024, arXiv 2408.06266): DPO whose two answers are anchored at the reference, one by one.

DPO fixes their difference only, and often lowers both. `zero` raises the chosen answer above the reference and lowers
the rejected one below it, for chosen answers that are better than the model's own; `down` lowers both, the rejected one
more, for chosen answers that are worse. Each term is a sigmoid: the loss lies between 0 and 2, and an answer that is
far from the reference pulls no more.

No difference from TRL's "apo_zero" and "apo_down", whose text says that the second lowers both answers, as here.
"""

from typing import Annotated, Literal

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss


class APOConfig(MethodConfig):
    beta: Annotated[float, Field(gt=0.0)]
    variant: Literal["zero", "down"]


class APO(Method[APOConfig]):
    Config = APOConfig

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        chosen_reward, rejected_reward = self.config.beta * chosen.logratios, self.config.beta * rejected.logratios
        if self.config.variant == "zero":
            of_chosen, of_rejected = (-chosen_reward).sigmoid(), rejected_reward.sigmoid()
        else:
            of_chosen, of_rejected = chosen_reward.sigmoid(), (rejected_reward - chosen_reward).sigmoid()
        return PairLoss(
            losses=of_chosen + of_rejected,  # 1 - sigmoid(x) is sigmoid(-x), which keeps its digits for large x
            chosen_rewards=chosen_reward.detach(),
            rejected_rewards=rejected_reward.detach(),
        )


METHOD = APO
