"""AMaPO (Deng, Feng, Lei 2025, arXiv 2511.09385): SimPO's loss with a margin for the pairs that are worse than average.

-log sigma(beta d_i - m_i), d being the difference of the answers' mean log-probs. With the mean mu and the standard
deviation sd of d over the step a pair below the mean has the margin m_i = beta exp(mu (mu - d_i) / sd), any other 0; no
gradient reaches it. There is no reference. At d = mu the margin jumps from beta to 0.

Paper and released code (AMaPO, amapo_trainer.py) differ twice, as our sources have the paper: its exponent is of the
rewards beta d, hence BETA mu (mu - d_i) / sd; and it gives the margin where that exponent is above 0. With a negative
mu these are the pairs ABOVE the mean, while the code gives its margin to those below it, the smallest one to the worst.
Neither does then what both say; early in a training mu is often negative. `exponent` chooses between them, and
`when_negative: none` makes the exponent 0 where mu is below 0: a margin of beta for all pairs below the mean, a guess
at what is meant. How often that happens is logged.

Differences from the released code:
- mu and sd are of a whole optimizer step; there of a micro-batch over all ranks, 8 pairs in its configs. So this is
  another run than theirs, not a reproduction.
- A step of one pair has no standard deviation, and pairs that hardly differ cannot be compared: margin 0. There NaN.
- Evaluation uses no margin; there that of the evaluation batch.
- No label smoothing, and no SFT term, which is computed there and dropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, log_sigmoid

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MIN_SD = 1e-6  # nats per token; below it pairs do not differ enough to be compared


class AMaPOConfig(MethodConfig):
    beta: Annotated[float, Field(gt=0.0)]  # scale of the rewards, and of the margins
    exponent: Literal["code", "paper"] = "code"
    when_negative: Literal["released", "none"] = "released"  # what becomes of an exponent whose mu is below 0


@dataclass(frozen=True)
class Statistics:
    """Of a step's d, nats per token."""

    mu: float
    sd: float  # unbiased


class AMaPO(Method[AMaPOConfig]):
    Config = AMaPOConfig
    needs_reference = False
    looks_ahead = True

    def __init__(self, config: AMaPOConfig) -> None:
        super().__init__(config)
        self.of_step: Statistics | None = None  # between `before_step` and `after_step`
        self._seen = dict.fromkeys(("mu", "sd", "max_exponent"), 0.0)  # of the latest step

    @property
    def min_pairs(self) -> int:
        """The smallest number that has a standard deviation."""
        return 2

    def looked_at(self, chosen: Logps, rejected: Logps) -> "Tensor":
        """d, the difference of the mean log-probs, [B]."""
        return chosen.per_token - rejected.per_token

    def before_step(self, values: "Tensor", generator: "torch.Generator") -> "Tensor":
        sd = values.std().item() if len(values) > 1 else 0.0
        self.of_step = Statistics(values.mean().item(), sd)
        exponents, active = self._exponents(values)
        largest = exponents[active].max().item() if active.any() else 0.0
        self._seen = {"mu": self.of_step.mu, "sd": sd, "max_exponent": largest}
        return values.new_ones(len(values))

    def _exponents(self, values: "Tensor") -> tuple["Tensor", "Tensor"]:
        """Exponent of each pair's margin, [B], and whether it has one; outside of a step none has."""
        of_step = self.of_step
        if of_step is None or of_step.sd < MIN_SD:
            return values.new_zeros(len(values)), values.new_zeros(len(values)).bool()
        mu = of_step.mu
        scale = self.config.beta * mu if self.config.exponent == "paper" else mu
        if self.config.when_negative == "none":
            exponents, active = (mu - values) / of_step.sd * max(scale, 0.0), values < mu
        else:
            exponents = (mu - values) / of_step.sd * scale
            active = exponents > 0.0 if self.config.exponent == "paper" else values < mu
        return exponents, active

    def margins(self, values: "Tensor") -> tuple["Tensor", "Tensor"]:
        """m, [B], and whether it is above 0; all 0 outside of a step. `values` is d without gradient."""
        exponents, active = self._exponents(values)
        # Where no margin is due the exponent may overflow, and infinity times 0 is NaN.
        return self.config.beta * exponents.exp().where(active, values.new_zeros(())), active

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        beta, d = self.config.beta, self.looked_at(chosen, rejected)
        margins, active = self.margins(d.detach())
        negative = self.of_step is not None and self.of_step.mu < 0.0
        return PairLoss(
            losses=-log_sigmoid(beta * d - margins),
            chosen_rewards=beta * chosen.per_token.detach(),
            rejected_rewards=beta * rejected.per_token.detach(),
            metrics={
                "amapo/margin": margins,
                "amapo/active": active.to(margins.dtype),
                "amapo/mu_negative": margins.new_full((len(margins),), float(negative)),
            },
        )

    def after_step(
        self, step: int, means: Mapping[str, float], policy: "nn.Module", reference: "nn.Module | None"
    ) -> dict[str, float]:
        self.of_step = None
        return {f"amapo/{name}": value for name, value in self._seen.items()}


METHOD = AMaPO
