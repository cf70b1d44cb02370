"""DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7): logistic loss on the difference of the two log-ratios."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodNumbers, PairLoss, log_sigmoid

if TYPE_CHECKING:
    from torch import Tensor


class DPONumbers(MethodNumbers):
    beta: Annotated[float, Field(gt=0.0)]


def dpo_loss(chosen_logratios: "Tensor", rejected_logratios: "Tensor", beta: "float | Tensor") -> "Tensor":
    """-log sigma(beta h), h = chosen_logratios - rejected_logratios.

    Args:
        chosen_logratios: log pi_theta(y_w|x) - log pi_ref(y_w|x), summed over tokens, [B].
        rejected_logratios: the same of y_l, [B].
        beta: one for all pairs or one per pair, [B].

    Returns:
        loss per pair, [B].
    """
    return -log_sigmoid(beta * (chosen_logratios - rejected_logratios))


class DPO(Method[DPONumbers]):
    Numbers = DPONumbers

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        beta = self.numbers.beta
        return PairLoss(
            losses=dpo_loss(chosen.logratios, rejected.logratios, beta),
            chosen_rewards=beta * chosen.logratios.detach(),
            rejected_rewards=beta * rejected.logratios.detach(),
        )


METHOD = DPO
