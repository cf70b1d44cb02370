"""ε-DPO (arXiv 2502.13177): DPO whose beta, the KL penalty, is chosen per pair and adapted per step.

For each pair the log-ratio margin of the policy is compared with that of two policies perturbed by ε: if it changes
monotonically with beta, this pair is trained with the neighbouring beta that separates it better, and beta itself
follows the mean of these decisions, by the rule of the code that made the published numbers (oddqueue/e-dpo).

Differences from their code: the mean decision is exact for unequal micro-batches and a short last accumulation window;
beta is a float64 that is saved and restored; equal policy and reference are an exact tie. Label smoothing is not
offered (there it has no effect: both of its terms carry the same sign).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodNumbers, PairLoss, log_sigmoid, required

if TYPE_CHECKING:
    from torch import Tensor, nn


class EpsilonDPONumbers(MethodNumbers):
    beta: Annotated[float, Field(gt=0.0)]  # before the first step
    epsilon: Annotated[float, Field(gt=0.0, lt=1.0)]  # of the test and of the step


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


def next_beta(beta: float, epsilon: float, mean_step: float) -> float:
    """beta after an optimizer step with mean decision `mean_step`: beta / (1 + ε mean(s))."""
    return beta / (1.0 + epsilon * mean_step)


class EpsilonDPO(Method[EpsilonDPONumbers]):
    Numbers = EpsilonDPONumbers

    def __init__(self, numbers: EpsilonDPONumbers) -> None:
        super().__init__(numbers)
        self.beta = numbers.beta

    @property
    def epsilon(self) -> float:
        return self.numbers.epsilon

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        z = (chosen.policy - rejected.policy).detach()
        z_p = required(chosen.p_epsilon, "p_epsilon") - required(rejected.p_epsilon, "p_epsilon")
        z_n = required(chosen.n_epsilon, "n_epsilon") - required(rejected.n_epsilon, "n_epsilon")
        steps = epsilon_steps(z, z_p, z_n)
        beta = self.beta / (1.0 + self.epsilon * steps)  # beta~ of each pair, a constant for autograd
        h = (chosen.logratios - rejected.logratios).detach()
        kl_chosen = required(chosen.kl_policy_ref, "kl_policy_ref")
        kl_rejected = required(rejected.kl_policy_ref, "kl_policy_ref")
        return PairLoss(
            losses=-log_sigmoid(beta * (chosen.logratios - rejected.logratios)),
            # With the beta all pairs share and not beta~, whose changes from pair to pair would blur the rewards.
            chosen_rewards=self.beta * chosen.logratios.detach(),
            rejected_rewards=self.beta * rejected.logratios.detach(),
            metrics={
                "eps/p_ratio": (steps > 0).to(z.dtype),
                "eps/n_ratio": (steps < 0).to(z.dtype),
                "eps/none_ratio": (steps == 0).to(z.dtype),
                "eps/mean_step": steps,
                "eps/mean_abs": (z_p - z).abs(),
                # d z / d ε at ε = 0, whose sign is the decision to first order: log-ratio margin minus KL difference.
                "eps/d1": h - (kl_chosen - kl_rejected),
            },
        )

    def after_step(
        self, step: int, means: Mapping[str, float], policy: "nn.Module", reference: "nn.Module | None"
    ) -> dict[str, float]:
        used, self.beta = self.beta, next_beta(self.beta, self.epsilon, means["eps/mean_step"])
        return {"eps/beta": used, "eps/beta_next": self.beta}

    def state_dict(self) -> dict[str, Any]:
        return {"beta": self.beta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.beta = state["beta"]


METHOD = EpsilonDPO
