"""DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7): logistic loss on the difference of the two log-ratios."""

from typing import Annotated

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodNumbers, PairLoss, log_sigmoid


class DPONumbers(MethodNumbers):
    beta: Annotated[float, Field(gt=0.0)]


class DPO(Method[DPONumbers]):
    Numbers = DPONumbers

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        beta = self.numbers.beta
        return PairLoss(
            losses=-log_sigmoid(beta * (chosen.logratios - rejected.logratios)),  # eq. 7
            chosen_rewards=beta * chosen.logratios.detach(),
            rejected_rewards=beta * rejected.logratios.detach(),
        )


METHOD = DPO
