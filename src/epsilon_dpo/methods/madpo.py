"""MADPO (Rho 2025, arXiv 2510.05342): DPO whose pairs are weighted by how far apart a reward model finds the answers.

With R the reward model's margin of the pair in nats, weight w and target c R,

    c = c_min + (c_max - c_min) / (1 + (c_max - 1) / (1 - c_min) exp(lam (|R| - tau)))
    w = sigma(c R) / sigma(R) where R > -tau, else 1                    L = -w log sigma(beta h)

c is 1 at |R| = tau, above it for closer pairs and below it for pairs further apart. Where labels are drawn with
probability sigma(R) and |R| < tau, the expected loss of both labels is smallest at beta h = c R: close pairs get a
stretched target. Further ones get no shrunk one: there the label against the margin counts fully (R <= -tau), and the
loss is smallest at log sigma(c R) - log sigma(-R), nearly R. w is a constant of the data: at most 1.21 for c_max 2, and
low for a label that the reward model contradicts by less than tau: near 0 where tau is large, so that the method is
above all a filter of these (tau 6.9, R -3: 0.06), and 0.75 at least at tau 2.

Differences from the released code:
- R comes from stage `margins`, once for all runs, in nats by a temperature fitted on held-out labels; there a reward
  model runs in the training loop, and nothing calibrates it.
- c_max > 1 > c_min is required; there a c_min of 1 divides by 0, and a c_max of 1 stretches nothing.
"""

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, log_sigmoid, required

if TYPE_CHECKING:
    from torch import Tensor


class MADPOConfig(MethodConfig):
    beta: Annotated[float, Field(gt=0.0)]
    tau: Annotated[float, Field(gt=0.0)]  # nats; a pair this far apart is DPO's
    c_max: Annotated[float, Field(gt=1.0)] = 2.0  # of the closest pairs
    c_min: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5  # of the furthest
    lam: Annotated[float, Field(gt=0.0)] = 1.0  # how fast the one turns into the other, per nat


class MADPO(Method[MADPOConfig]):
    Config = MADPOConfig
    needs_scores = True

    def stretch(self, margins: "Tensor") -> "Tensor":
        """c of margins R, in their shape."""
        c_max, c_min = self.config.c_max, self.config.c_min
        past = self.config.lam * (margins.abs() - self.config.tau) + math.log((c_max - 1.0) / (1.0 - c_min))
        return c_min + (c_max - c_min) * (-past).sigmoid()

    def weights(self, margins: "Tensor") -> "Tensor":
        """w of margins R, in their shape; without gradient, as the margins are."""
        weights = (log_sigmoid(self.stretch(margins) * margins) - log_sigmoid(margins)).exp()
        return weights.where(margins > -self.config.tau, 1.0)

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        beta = self.config.beta
        margins = (required(chosen.score, "score") - required(rejected.score, "score")).detach()
        weights = self.weights(margins)
        return PairLoss(
            losses=-weights * log_sigmoid(beta * (chosen.logratios - rejected.logratios)),
            chosen_rewards=beta * chosen.logratios.detach(),
            rejected_rewards=beta * rejected.logratios.detach(),
            metrics={
                "madpo/weight": weights,
                "madpo/margin_abs": margins.abs(),
                "madpo/contradicted": (margins < 0.0).to(margins),
                "madpo/full_again": (margins <= -self.config.tau).to(margins),
            },
        )


METHOD = MADPO
