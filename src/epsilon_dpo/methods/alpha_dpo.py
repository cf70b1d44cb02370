"""AlphaDPO (Wu et al. 2024, arXiv 2410.10148): SimPO whose target margin is larger where the policy is already surer.

-log sigma(beta (a_w - a_l) - (gamma + beta alpha z)), a being the mean log-prob of the answer's tokens. z is the pair's
z-score: its g, the difference of the two log-ratios per token, minus the moving mean M, divided by the moving standard
deviation S. A pair that is separated better than average is pushed further, an unsure one left; no gradient reaches z.
beta itself is the same for all pairs, so this is no control of the KL penalty.

Paper and released code (junkangwu/alpha-DPO) differ: as our sources have the paper, its margin is gamma + alpha z, of a
z that is the same for beta g as for g; the code's is gamma + BETA alpha z (it is given gamma / beta, as SimPO's code
is). All published configs use the code's, and so does the key `alpha`: the paper's alpha is ours times beta.

Differences from the released code:
- M and S are those of a whole optimizer step and move once per step; there once per micro-batch over all ranks, 16
  times per step in its configs. Its momentum of .9 is then .9^16 = .185 per step.
- `correction: adam` divides both averages by 1 - momentum^counted, so that the first step is compared with itself, and
  counts no step whose pairs do not differ, as the first one, or two under a warm-up, whose policy is the reference;
  there, and with `none`, they start at 0, and the first z-scores are 1 / (1 - momentum) times too large.
- Where S is nearly 0, as in a first step whose policy is its reference, z is 0 and the loss SimPO's; there 0 / 0 = NaN.
- A step of one pair has no standard deviation and moves neither average; there it is NaN.
- Evaluation uses z = 0, SimPO's loss, and moves nothing; there every evaluation batch moves M and S.
- M, S and the number of steps counted are saved and restored.
- The rewards are SimPO's; there they are beta (a - alpha times the log-ratio per token), which the loss does not hold.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, log_sigmoid

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MIN_S = 1e-6  # nats per token; below it pairs do not differ enough to be compared


class AlphaDPOConfig(MethodConfig):
    beta: Annotated[float, Field(gt=0.0)]
    gamma: Annotated[float, Field(ge=0.0)]  # margin of the rewards that is aimed at where z = 0, as SimPO's
    alpha: Annotated[float, Field(ge=0.0)]  # what a z-score of 1 adds to gamma / beta, nats per token
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)]  # share of M and S that outlives a step
    correction: Literal["adam", "none"] = "adam"  # of averages that start at 0


class AlphaDPO(Method[AlphaDPOConfig]):
    Config = AlphaDPOConfig
    looks_ahead = True

    def __init__(self, config: AlphaDPOConfig) -> None:
        super().__init__(config)
        self.m, self.s, self.counted = 0.0, 0.0, 0
        self._in_step = False  # between `before_step` and `after_step`

    @property
    def min_pairs(self) -> int:
        """The smallest number that has a standard deviation."""
        return 2

    def looked_at(self, chosen: Logps, rejected: Logps) -> "Tensor":
        """g, the difference of the log-ratios per token, [B]; an empty answer has 0."""
        chosen_ratio = chosen.logratios / chosen.tokens.clamp(min=1)
        return chosen_ratio - rejected.logratios / rejected.tokens.clamp(min=1)

    def before_step(self, values: "Tensor", generator: "torch.Generator") -> "Tensor":
        if len(values) > 1 and (self.config.correction == "none" or not values.std() < MIN_S):
            kept = self.config.momentum
            self.m = kept * self.m + (1.0 - kept) * values.mean().item()
            self.s = kept * self.s + (1.0 - kept) * values.std().item()  # the unbiased one
            self.counted += 1
        self._in_step = True
        return values.new_ones(len(values))

    def statistics(self) -> tuple[float, float]:
        """M and S as z-scores use them, nats per token."""
        if self.config.correction == "none" or self.counted == 0:
            return self.m, self.s
        seen = 1.0 - self.config.momentum**self.counted
        return self.m / seen, self.s / seen

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        beta, gamma, alpha = self.config.beta, self.config.gamma, self.config.alpha
        zscores = self._zscores(self.looked_at(chosen, rejected).detach())
        margins = gamma + beta * alpha * zscores
        return PairLoss(
            losses=-log_sigmoid(beta * (chosen.per_token - rejected.per_token) - margins),
            chosen_rewards=beta * chosen.per_token.detach(),
            rejected_rewards=beta * rejected.per_token.detach(),
            metrics={"alpha_dpo/zscore_abs": zscores.abs(), "alpha_dpo/margin": margins},
        )

    def _zscores(self, values: "Tensor") -> "Tensor":
        """(g - M) / S, [B]; 0 outside of a step and where S is nearly 0, while NaN stays NaN."""
        m, s = self.statistics()
        return (values - m) / s if self._in_step and not s < MIN_S else values.new_zeros(len(values))

    def after_step(
        self, step: int, means: Mapping[str, float], policy: "nn.Module", reference: "nn.Module | None"
    ) -> dict[str, float]:
        self._in_step = False
        m, s = self.statistics()
        return {"alpha_dpo/m": m, "alpha_dpo/s": s}

    def state_dict(self) -> dict[str, Any]:
        return {"m": self.m, "s": self.s, "counted": self.counted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.m, self.s, self.counted = state["m"], state["s"], state["counted"]


METHOD = AlphaDPO
