"""γ-PO (Sun et al. 2025, arXiv 2506.03690): the pairs of a step share a budget of target margins, by their reward gaps.

The mean of the pairs' margins gamma_i is gamma. How it is shared out minimises the mean of -log sigma(r_i - gamma_i)
plus tau KL(p || uniform), p_i being pair i's share and r_i its reward gap: beta (a_w - a_l) in the form `simpo`, whose
loss is -log sigma(r - gamma_i), and beta h in the form `dpo`, whose loss is -log sigma(r - (gamma_i - gamma)), so that
the margins move pairs against each other and not all of them. A larger gap gets a larger margin; with tau -> infinity
every pair has gamma, and the method is SimPO or DPO. No gradient reaches a margin.

The minimum is where gamma_i = c exp(-(gamma / tau) sigma(gamma_i - r_i)). Given c its right side falls with
gamma_i, which bisection finds; the mean of these rises with c, which is the one number that a step's pairs must share.

Differences from the released code (gammaPO, simpo_trainer.py and xpo_trainer.py):
- The problem is solved exactly. There 20 steps of exponentiated gradient are taken in float32, which do not arrive for
  tau of .5 and below (off by .04 at .5).
- The pairs of an optimizer step are one pool. There a micro-batch of one rank is filled up to 256 gaps from a queue of
  the last 2048 gaps of this rank, so that results depend on the split. `pool: queue` is that queue over whole steps:
  drawn by seed and step, empty at the start (there eight standard normal numbers, wild for the form `dpo`, whose gaps
  are hundredths), filled by training alone (there by evaluation, too), saved and restored.
- Evaluation gives every pair gamma.
- gamma is in units of the reward; there it is given as gamma / beta.
- The form `dpo` has no label smoothing here, and `simpo` ignores it there; there is no `flip`,
  which negates a whole micro-batch there.
As our sources have the paper, it states the same problem with the queue.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, log_sigmoid

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

POOLED, QUEUED = 256, 2048  # gaps, as released
HALVINGS = 60  # of an interval of gamma / tau <= 100: down to the spacing of float64
MOST_SHARPENING = 100.0


class GammaPOConfig(MethodConfig):
    form: Literal["simpo", "dpo"]  # mean log-probs without a reference, or log-ratios of sums
    beta: Annotated[float, Field(gt=0.0)]
    gamma: Annotated[float, Field(gt=0.0)]  # mean margin of the rewards
    tau: Annotated[float, Field(gt=0.0)]  # how hard it is to share out margins unevenly
    pool: Literal["step", "queue"] = "step"

    @model_validator(mode="after")
    def _margins_are_numbers(self) -> "GammaPOConfig":
        if self.gamma / self.tau > MOST_SHARPENING:
            raise ValueError(f"gamma / tau must not exceed {MOST_SHARPENING:g}: one pair would get all margins")
        return self


def log_shares(gaps: "Tensor", gamma: float, tau: float, log_c: float) -> "Tensor":
    """log(gamma_i / gamma) where gamma_i = c exp(-(gamma / tau) sigma(gamma_i - r_i)), for reward gaps r, [n].

    Args:
        log_c: log(c / gamma).
    """
    sharpening = gamma / tau
    low, high = gaps.new_full((len(gaps),), log_c - sharpening), gaps.new_full((len(gaps),), log_c)
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        too_low = middle + sharpening * (gamma * middle.exp() - gaps).sigmoid() < log_c
        low, high = middle.where(too_low, low), high.where(too_low, middle)
    return (low + high) / 2.0


def shared_log_c(gaps: "Tensor", gamma: float, tau: float) -> float:
    """log(c / gamma), from 0 to gamma / tau, with which the margins of these gaps, float64 [n], have the mean gamma.

    0 where a gap is NaN: the step has diverged, which its loss says.
    """
    from scipy.optimize import brentq  # here, as checking a run's config needs none of it

    if gaps.isnan().any():
        return 0.0

    def excess(log_c: float) -> float:
        return log_shares(gaps, gamma, tau, log_c).exp().mean().log().item()

    # Slightly wider than where the root is, so that rounding cannot hide the change of sign at an end.
    found: float = brentq(excess, -1e-9, gamma / tau + 1e-9, xtol=1e-15, maxiter=500)
    return found


class GammaPO(Method[GammaPOConfig]):
    Config = GammaPOConfig
    looks_ahead = True

    def __init__(self, config: GammaPOConfig) -> None:
        super().__init__(config)
        self.needs_reference = config.form == "dpo"
        self.queue: list[float] = []  # the latest gaps, oldest first
        self.log_c: float | None = None  # of the step between `before_step` and `after_step`
        self._seen = dict.fromkeys(("min", "max", "c"), config.gamma) | {"spread": 0.0}  # of the latest step

    @property
    def min_pairs(self) -> int:
        """One pair alone, without a queue of others, has the margin gamma: the method would be SimPO or DPO."""
        return 2 if self.config.pool == "step" else 1

    def looked_at(self, chosen: Logps, rejected: Logps) -> "Tensor":
        """Reward gap r, [B], in nats."""
        if self.config.form == "dpo":
            return self.config.beta * (chosen.logratios - rejected.logratios)
        return self.config.beta * (chosen.per_token - rejected.per_token)

    def before_step(self, values: "Tensor", generator: "torch.Generator") -> "Tensor":
        gamma, tau = self.config.gamma, self.config.tau
        self.log_c = shared_log_c(self._pool(values, generator), gamma, tau)
        margins = gamma * log_shares(values, gamma, tau, self.log_c).exp()
        self._seen = {
            "min": margins.min().item(),
            "max": margins.max().item(),
            "spread": margins.std(correction=0).item(),
            "c": gamma * math.exp(self.log_c),
        }
        return values.new_ones(len(values))

    def _pool(self, values: "Tensor", generator: "torch.Generator") -> "Tensor":
        """The gaps that share the budget: `values` and, if there is a queue, others drawn from it before they enter."""
        if self.config.pool == "step":
            return values
        import torch

        queue = values.new_tensor(self.queue)
        drawn = queue[torch.randperm(len(queue), generator=generator)[: max(0, POOLED - len(values))]]
        self.queue = [*self.queue, *values.tolist()][-QUEUED:]
        return torch.cat([values, drawn])

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        beta, gamma, gaps = self.config.beta, self.config.gamma, self.looked_at(chosen, rejected)
        margins = gaps.new_full((len(gaps),), gamma)
        if self.log_c is not None:
            shares = log_shares(gaps.detach().double(), gamma, self.config.tau, self.log_c).exp()
            margins = (gamma * shares).to(gaps.dtype)
        dpo = self.config.form == "dpo"
        return PairLoss(
            losses=-log_sigmoid(gaps - (margins - gamma if dpo else margins)),
            chosen_rewards=beta * (chosen.logratios if dpo else chosen.per_token).detach(),
            rejected_rewards=beta * (rejected.logratios if dpo else rejected.per_token).detach(),
        )

    def after_step(
        self, step: int, means: Mapping[str, float], policy: "nn.Module", reference: "nn.Module | None"
    ) -> dict[str, float]:
        self.log_c = None
        return {f"gamma_po/{name}": value for name, value in self._seen.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"queue": list(self.queue)} if self.config.pool == "queue" else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.queue = list(state.get("queue", []))


METHOD = GammaPO
