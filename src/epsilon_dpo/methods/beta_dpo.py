"""beta-DPO (Wu et al. 2024, arXiv 2407.08639): DPO whose beta follows the batch, and which drops outlying pairs.

M0 and S0 are moving averages of the mean and the standard deviation of the log-ratio margins M. Before each optimizer
step all but the share `rho` of its pairs are drawn with weights exp(-((M - M0) / S0)^2 / 2), and these are trained with
beta0 (1 + alpha (mean of their M - M0)): a batch whose answers are already far apart gets a larger beta.

Differences from the released code (junkangwu/beta-DPO):
- M0, S0, the draw and beta are those of a whole optimizer step; there each micro-batch has its own, and results depend
  on its size. The draw depends on seed and step only; there every rank draws for itself, the same pairs only while the
  random states agree. Every kept pair counts alike; there it counts more on a rank that keeps few.
- Evaluation uses beta0 and moves nothing; there every evaluation batch moves M0 and S0.
- Where S0 is nearly 0 or too few weights are above 0, all pairs are equally likely; there the first step, whose margins
  are all 0 when policy and reference are equal, divides 0 by 0 and stops.
- M0 and S0 are saved and restored.
As in their code, both averages start at 0 without a correction and move before they are used.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, log_sigmoid

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MIN_BETA = 1e-3  # of a step, as in the released code
MIN_S0 = 1e-6  # nats; below it margins do not differ enough to be compared
SLACK = 1e-9  # 10 * (1 - .9) is a little less than 1 in floating point and means 1


class BetaDPOConfig(MethodConfig):
    beta: Annotated[float, Field(ge=MIN_BETA)]  # beta0, that of a step whose kept margins have the mean M0
    alpha: Annotated[float, Field(ge=0.0)]  # how much beta grows per nat of mean margin above M0
    rho: Annotated[float, Field(ge=0.0, lt=1.0)]  # share of the pairs that is filtered out
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)]  # share of M0 and S0 that outlives a step


def pairs_kept(n: int, rho: float) -> int:
    """How many of a step's n pairs are trained on; at least one."""
    return max(1, int(n * (1.0 - rho) + SLACK))


def next_statistics(m0: float, s0: float, margins: "Tensor", momentum: float) -> tuple[float, float]:
    """M0 and S0 after a step with these margins, [n]; the standard deviation is the unbiased one.

    One pair alone (the rest of an epoch) has none and leaves S0 as it is.
    """
    spread = margins.std().item() if len(margins) > 1 else s0
    return momentum * m0 + (1.0 - momentum) * margins.mean().item(), momentum * s0 + (1.0 - momentum) * spread


def drawing_weights(margins: "Tensor", m0: float, s0: float, k: int) -> "Tensor":
    """exp(-((M - M0) / S0)^2 / 2), [n], up to a factor the probability of a pair to be drawn first.

    1 for all pairs where S0 is nearly 0, or where fewer than k weights are above 0 (far margins underflow, NaN is not
    above 0).
    """
    weights = (-0.5 * ((margins - m0) / s0) ** 2).exp()  # NaN or 0 for S0 = 0
    usable = s0 >= MIN_S0 and int((weights > 0.0).sum()) >= k
    return weights if usable else weights.new_ones(len(weights))


def batch_beta(beta: float, alpha: float, kept_mean: float, m0: float) -> float:
    """beta0 (1 + alpha (mean M of the kept pairs - M0)), at least 1e-3; NaN stays NaN."""
    return max(beta * (1.0 + alpha * (kept_mean - m0)), MIN_BETA)


class BetaDPO(Method[BetaDPOConfig]):
    Config = BetaDPOConfig
    looks_ahead = True

    def __init__(self, config: BetaDPOConfig) -> None:
        super().__init__(config)
        self.m0, self.s0 = 0.0, 0.0
        self.batch_beta = config.beta  # between `before_step` and `after_step` that of the step, otherwise beta0
        self.kept_share = 1.0

    @property
    def min_pairs(self) -> int:
        """The smallest n that has a standard deviation and of which the filter leaves one pair by itself."""
        return max(2, math.ceil((1.0 - SLACK) / (1.0 - self.config.rho)))

    def before_step(self, values: "Tensor", generator: "torch.Generator") -> "Tensor":
        margins = values  # h, what `looked_at` gives by itself
        n, k = len(margins), pairs_kept(len(margins), self.config.rho)
        self.m0, self.s0 = next_statistics(self.m0, self.s0, margins, self.config.momentum)
        drawn = drawing_weights(margins, self.m0, self.s0, k).multinomial(k, replacement=False, generator=generator)
        weights = margins.new_zeros(n)
        weights[drawn] = n / k
        kept_mean = margins[weights > 0.0].mean().item()  # in the order of the pairs, not of the draw
        self.batch_beta = batch_beta(self.config.beta, self.config.alpha, kept_mean, self.m0)
        self.kept_share = k / n
        return weights

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        beta0 = self.config.beta
        return PairLoss(
            losses=-log_sigmoid(self.batch_beta * (chosen.logratios - rejected.logratios)),
            # With beta0 and not the batch's beta, whose changes from step to step would blur the rewards.
            chosen_rewards=beta0 * chosen.logratios.detach(),
            rejected_rewards=beta0 * rejected.logratios.detach(),
        )

    def after_step(
        self, step: int, means: Mapping[str, float], policy: "nn.Module", reference: "nn.Module | None"
    ) -> dict[str, float]:
        used, self.batch_beta = self.batch_beta, self.config.beta
        return {
            "beta_dpo/beta": used,
            "beta_dpo/m0": self.m0,
            "beta_dpo/s0": self.s0,
            "beta_dpo/kept_share": self.kept_share,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"m0": self.m0, "s0": self.s0}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.m0, self.s0 = state["m0"], state["s0"]


METHOD = BetaDPO
