"""ε-DPO (arXiv 2502.13177): DPO whose beta, the KL penalty, is chosen per pair and adapted per step.

For each pair the log-ratio margin of the policy is compared with that of two policies perturbed by ε: if it changes
monotonically with beta, this pair is trained with the neighbouring beta that separates it better, and beta itself
follows these decisions.

`beta_update: code` is the rule of the code that made the published numbers (oddqueue/e-dpo), `paper_mean` that of the
paper's Algorithm 1; they differ in the second order of ε. `step_precision: fp32` is the definition; `official_bf16`
rounds logits, mixtures, log-probs and their sums to bfloat16 as that code did: a sum of 200 nats moves in steps of 1,
and most pairs tie.

Differences from the released code: the mean decision is exact for unequal micro-batches and a short last accumulation
window; beta is a float64 that is saved and restored; equal policy and reference are an exact tie; rewards are logged
with the beta that all pairs share. docs/methods.md has the whole table.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from epsilon_dpo.methods.interface import Logps, Method, MethodNumbers, PairLoss, log_sigmoid, required

if TYPE_CHECKING:
    from torch import Tensor, nn

Epsilon = Annotated[float, Field(gt=0.0, lt=1.0)]


class EpsilonDPONumbers(MethodNumbers):
    beta: Annotated[float, Field(gt=0.0)]  # before the first step
    epsilon: Epsilon
    eps_c: Epsilon | None = None  # of the comparison, null: epsilon
    eps_s: Epsilon | None = None  # of the step, null: epsilon
    beta_update: Literal["code", "paper_mean"] = "code"
    step_precision: Literal["fp32", "official_bf16"] = "fp32"
    label_smoothing: float = 0.0

    @field_validator("label_smoothing")
    @classmethod
    def _no_smoothing(cls, value: float) -> float:
        if value:
            raise ValueError(
                "ε-DPO has no label smoothing (in the released code both of its terms carry the same sign, so that it "
                "does nothing); remove it, or use method dpo"
            )
        return value


def epsilon_steps(z: "Tensor", z_p: "Tensor", z_n: "Tensor") -> "Tensor":
    """The decision s of each pair: +1 for a lower beta, -1 for a higher one, 0 where the margin is not monotonic.

    Args:
        z: log pi_theta(y_w|x) - log pi_theta(y_l|x), [B].
        z_p: the same margin under pi(beta-), [B].
        z_n: the same margin under pi(beta+), [B].

    Returns:
        s in {-1, 0, 1} as floats, [B]; a tie gives 0.
    """
    return ((z_p > z) & (z > z_n)).to(z.dtype) - ((z_n > z) & (z > z_p)).to(z.dtype)


def beta_by_code(beta: float, eps_s: float, mean_step: float) -> float:
    """beta after an optimizer step with mean decision `mean_step`: beta / (1 + ε mean(s))."""
    return beta / (1.0 + eps_s * mean_step)


def beta_by_paper(beta: float, eps_s: float, lowered: float, raised: float) -> float:
    """beta after an optimizer step as the mean of the pairs' own betas; `lowered`, `raised`: shares of pairs."""
    return beta * (lowered / (1.0 + eps_s) + raised / (1.0 - eps_s) + (1.0 - lowered - raised))


class EpsilonDPO(Method[EpsilonDPONumbers]):
    Numbers = EpsilonDPONumbers

    def __init__(self, numbers: EpsilonDPONumbers) -> None:
        super().__init__(numbers)
        self.beta = numbers.beta
        self.eps_s = numbers.epsilon if numbers.eps_s is None else numbers.eps_s

    @property
    def epsilon(self) -> float:
        return self.numbers.epsilon if self.numbers.eps_c is None else self.numbers.eps_c

    @property
    def rounds_to_bfloat16(self) -> bool:
        return self.numbers.step_precision == "official_bf16"

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        z, z_p, z_n, gamma = (
            self._margin(chosen, rejected, name) for name in ("policy", "p_epsilon", "n_epsilon", "reference")
        )
        steps = epsilon_steps(z.detach(), z_p, z_n)
        beta = self.beta / (1.0 + self.eps_s * steps)  # beta~ of each pair, a constant for autograd
        h = self._rounded(z - gamma)
        kl_chosen = required(chosen.kl_policy_ref, "kl_policy_ref")
        kl_rejected = required(rejected.kl_policy_ref, "kl_policy_ref")
        return PairLoss(
            losses=-log_sigmoid(beta * h),
            # With the beta all pairs share and not beta~, whose changes from pair to pair would blur the rewards.
            chosen_rewards=self.beta * chosen.logratios.detach(),
            rejected_rewards=self.beta * rejected.logratios.detach(),
            metrics={
                "eps/p_ratio": (steps > 0).to(z.dtype),
                "eps/n_ratio": (steps < 0).to(z.dtype),
                "eps/none_ratio": (steps == 0).to(z.dtype),
                "eps/mean_step": steps,
                "eps/mean_abs": (z_p - z.detach()).abs(),
                # d z / d ε at ε = 0, whose sign is the decision to first order: log-ratio margin minus KL difference.
                "eps/d1": h.detach() - (kl_chosen - kl_rejected),
            },
        )

    def after_step(
        self, step: int, means: Mapping[str, float], policy: "nn.Module", reference: "nn.Module | None"
    ) -> dict[str, float]:
        used = self.beta
        if self.numbers.beta_update == "code":
            self.beta = beta_by_code(used, self.eps_s, means["eps/mean_step"])
        else:
            self.beta = beta_by_paper(used, self.eps_s, means["eps/p_ratio"], means["eps/n_ratio"])
        return {"eps/beta": used, "eps/beta_next": self.beta}

    def _margin(self, chosen: Logps, rejected: Logps, name: str) -> "Tensor":
        """Chosen minus rejected of the log-probs `name`, [B]."""
        sums = (self._rounded(required(getattr(side, name), name)) for side in (chosen, rejected))
        return self._rounded(next(sums) - next(sums))

    def _rounded(self, x: "Tensor") -> "Tensor":
        """`x` as the step's precision holds it, in its own dtype; so is its gradient."""
        import torch

        return x.to(torch.bfloat16).to(x.dtype) if self.rounds_to_bfloat16 else x

    def state_dict(self) -> dict[str, Any]:
        return {"beta": self.beta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.beta = state["beta"]


METHOD = EpsilonDPO
