"""KTO (Ethayarajh et al. 2024, arXiv 2402.01306): each answer alone is desirable or not, no answer is compared.

An answer is worth its log-ratio above a reference point z0, through a sigmoid: gains and losses saturate. z0 estimates
KL(pi_theta || pi_ref), floored at 0, from answers to other prompts. A pair is two examples, the chosen answer a
desirable one and the rejected answer an undesirable one.

Differences from TRL: z0 is the mean over all examples of the optimizer step, chosen and rejected, and not over a
micro-batch; and as pairs stay together, every micro-batch holds both classes alike. From SimPO's table of losses
(Meng et al. 2024, arXiv 2405.14734): the undesirable term has its sign turned round there, which pushes rejected
answers up.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, required

if TYPE_CHECKING:
    from torch import Tensor


class KTOConfig(MethodConfig):
    beta: Annotated[float, Field(gt=0.0)]
    desirable_weight: Annotated[float, Field(ge=0.0)] = 1.0  # the paper's lambda_D
    undesirable_weight: Annotated[float, Field(ge=0.0)] = 1.0  # lambda_U

    @model_validator(mode="after")
    def _something_counts(self) -> "KTOConfig":
        if self.desirable_weight == self.undesirable_weight == 0.0:
            raise ValueError("desirable_weight and undesirable_weight are both 0, so no example counts; raise one")
        return self


def kto_losses(
    logratios: "Tensor",
    desirable: "Tensor",
    z0: float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> "Tensor":
    """lambda_y - v(x, y) of E examples, of either class or of both.

    Args:
        logratios: r = log pi_theta(y|x) - log pi_ref(y|x), [E], in nats.
        desirable: bool, [E].
        z0: the reference point in nats, a constant for autograd.

    Returns:
        [E]; lambda_D (1 - sigma(beta (r - z0))) if desirable, else lambda_U (1 - sigma(beta (z0 - r))).
    """
    import torch

    gain = beta * (logratios - z0)
    # 1 - sigma(x) is sigma(-x), which does not cancel where sigma(x) is nearly 1.
    return torch.where(desirable, desirable_weight * torch.sigmoid(-gain), undesirable_weight * torch.sigmoid(gain))


class KTO(Method[KTOConfig]):
    Config = KTOConfig
    mismatched = True

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        import torch

        beta = self.config.beta
        mismatched = (
            required(chosen.mean_mismatched, "mean_mismatched") + required(rejected.mean_mismatched, "mean_mismatched")
        ) / 2.0  # both sides have as many examples
        z0 = max(mismatched, 0.0)  # in this order, which hands on NaN
        logratios = torch.stack([chosen.logratios, rejected.logratios])  # [2, B]
        desirable = torch.tensor([[True], [False]], device=logratios.device)
        weights = self.config.desirable_weight, self.config.undesirable_weight
        losses = kto_losses(logratios, desirable, z0, beta, *weights).mean(0)  # so the mean over pairs is over examples
        return PairLoss(
            losses=losses,
            chosen_rewards=beta * chosen.logratios.detach(),
            rejected_rewards=beta * rejected.logratios.detach(),
            metrics={"kl": torch.full_like(losses.detach(), z0)},  # TRL's name
        )


METHOD = KTO
