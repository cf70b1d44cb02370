"""WPO (Zhou et al. 2024, arXiv 2406.11827): DPO whose pairs are weighted by how likely the policy finds their answers.

Pairs from another model are off-policy: what the present policy would never say teaches it little. The weight of a
pair is the product of both answers', a mean probability per token,

    plain     exp(mean_t log pi(y_t))
    aligned   exp(mean_t (log pi(y_t) - log sum_v pi(v)^2))                       L = -w_w w_l log sigma(beta h)

of which the second sets a token's probability against the one that a token drawn from the policy has on average, so
that an answer sampled from the policy weighs about 1, however uncertain the policy is. Weights are constants.

`aligned` is TRL's `use_weighting`, which has no `max_weight`; the released code (wzhouad/WPO) has `max_weight` 1 and
weighs answers by the policy as it is while it trains, as TRL and this do. Weights make loss and gradient smaller, which
AdamW takes out again, but a bound on the gradient's norm does not.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, log_sigmoid, required

if TYPE_CHECKING:
    from torch import Tensor


class WPOConfig(MethodConfig):
    beta: Annotated[float, Field(gt=0.0)]
    weights: Literal["plain", "aligned"]
    max_weight: Annotated[float, Field(gt=0.0)] | None = None  # of a pair; null: none


class WPO(Method[WPOConfig]):
    Config = WPOConfig

    @property
    def sum_sq_probs(self) -> bool:
        return self.config.weights == "aligned"

    def log_weight(self, answer: Logps) -> "Tensor":
        """Log of an answer's weight, [B], without gradient; 0 for an empty answer."""
        logps = answer.policy
        if self.config.weights == "aligned":
            logps = logps - required(answer.log_sum_sq_probs, "log_sum_sq_probs")
        return (logps / answer.tokens.clamp(min=1)).detach()

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        beta = self.config.beta
        weights = (self.log_weight(chosen) + self.log_weight(rejected)).exp()
        if self.config.max_weight is not None:
            weights = weights.clamp(max=self.config.max_weight)
        return PairLoss(
            losses=-weights * log_sigmoid(beta * (chosen.logratios - rejected.logratios)),
            chosen_rewards=beta * chosen.logratios.detach(),
            rejected_rewards=beta * rejected.logratios.detach(),
            metrics={"wpo/weight": weights},
        )


METHOD = WPO
