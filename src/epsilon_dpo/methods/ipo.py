"""IPO (Azar et al. 2023, arXiv 2310.12036, eq. 17): the log-ratio margin is regressed onto 1 / (2 tau).

A squared loss instead of a logistic one: the margin has a finite target, however certain the labels are.

`reduction: sum` is the formula as the paper prints it, h in nats per answer. `reduction: mean` divides each log-ratio
by the length of its answer, as TRL does: its source says that IPO's authors confirmed this as the form behind the
published results. The target is then in nats per token: a tau tuned for one form is wrong for the other.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss

if TYPE_CHECKING:
    from torch import Tensor


class IPOConfig(MethodConfig):
    tau: Annotated[float, Field(gt=0.0)]
    reduction: Literal["mean", "sum"] = "mean"


class IPO(Method[IPOConfig]):
    Config = IPOConfig

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        tau = self.config.tau
        chosen_score, rejected_score = self._score(chosen), self._score(rejected)
        return PairLoss(
            losses=(chosen_score - rejected_score - 1.0 / (2.0 * tau)) ** 2,  # eq. 17
            # Of the log-ratios that the loss compares, so that the margin of a solved pair is 1/2. TRL 1.16 logs tau
            # times the sums also where its loss takes the means, and a pair can then count as accurate while its loss
            # still says the opposite.
            chosen_rewards=tau * chosen_score.detach(),
            rejected_rewards=tau * rejected_score.detach(),
        )

    def _score(self, side: Logps) -> "Tensor":
        """Log-ratio of one side, [B], in nats per answer (`sum`) or per token (`mean`; 0 for an empty answer)."""
        return side.logratios if self.config.reduction == "sum" else side.logratios / side.tokens.clamp(min=1)


METHOD = IPO
