"""ε-DPO (arXiv 2502.13177): DPO whose beta, the KL penalty, is chosen per pair and adapted per step.

Read it from the top: the loss of a pair, its decision s, where beta moves; then the keys of params.yaml, and the class
that the trainer calls. Equations are those of the paper's third version; beta- = beta/(1+ε), beta+ = beta/(1-ε).

    z, z_minus, z_plus      log pi(y_w|x) - log pi(y_l|x) under the policy, under pi(beta-) and under pi(beta+)
    gamma, h = z - gamma    the same of the reference, and the log-ratio margin

What lies elsewhere:
- `_sweep` of epsilon_dpo/models/logps/kernel.py makes each token's two perturbed log-probs (eq. 3, 4), as changes;
- `of_pair` of epsilon_dpo/models/logps/tiles.py is its arithmetic on one tile of both models' logits;
- `finish_step` of epsilon_dpo/training/alignment/trainer.py calls `after_step` after each optimizer step,
- `Totals` of epsilon_dpo/training/alignment/pair_metrics.py having taken the means of `metrics` over all its pairs.

`step_precision: exact` sums z_minus - z and z_plus - z token by token and subtracts nothing. `fp32` is the definition
as it is written: it subtracts sums of hundreds of nats, and near the reference what it decides is rounding.
`official_bf16` rounds logits, mixtures, log-probs and sums to bfloat16 as the released code (oddqueue/e-dpo) did: a sum
of 200 nats moves in steps of 1, and most pairs tie. docs/methods.md says where we differ from that code.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, log_sigmoid, required

if TYPE_CHECKING:
    from torch import Tensor, nn


def epsilon_loss(h: "Tensor", steps: "Tensor", beta: float, eps_s: float) -> "Tensor":
    """-log sigmoid(beta~ h), [B], of margins h and decisions s, [B] each: beta~ is beta-, beta or beta+ (eq. 5)."""
    pair_betas = beta / (1.0 + eps_s * steps)  # beta~, a constant for autograd
    return -log_sigmoid(pair_betas * h)


def epsilon_steps(z: "Tensor", z_minus: "Tensor", z_plus: "Tensor") -> "Tensor":
    """The decision s of each pair: +1 for a lower beta, -1 for a higher one, 0 where z is not monotonic in beta.

    The margins are [B] each; so is s, as floats. A tie gives 0.
    """
    return ((z_minus > z) & (z > z_plus)).to(z.dtype) - ((z_plus > z) & (z > z_minus)).to(z.dtype)


def beta_by_released(beta: float, eps_s: float, mean_step: float) -> float:
    """The next beta by the rule of the code that made the published numbers: beta / (1 + ε mean(s))."""
    return beta / (1.0 + eps_s * mean_step)


def beta_by_paper(beta: float, eps_s: float, lowered: float, raised: float) -> float:
    """The next beta by Algorithm 1, line 5: the mean of beta~; `lowered`, `raised`: shares of pairs with s = +1, -1.

    It differs from `beta_by_released` in the second order of ε.
    """
    return beta * (lowered / (1.0 + eps_s) + raised / (1.0 - eps_s) + (1.0 - lowered - raised))


Epsilon = Annotated[float, Field(gt=0.0, lt=1.0)]


class EpsilonDPOConfig(MethodConfig):
    beta: Annotated[float, Field(gt=0.0)]  # before the first step
    epsilon: Epsilon
    eps_c: Epsilon | None = None  # of the comparison, null: epsilon
    eps_s: Epsilon | None = None  # of the step, null: epsilon
    beta_update: Literal["released", "paper"] = "released"
    step_precision: Literal["exact", "fp32", "official_bf16"] = "exact"
    label_smoothing: float = 0.0

    @field_validator("label_smoothing")
    @classmethod
    def _no_smoothing(cls, value: float) -> float:
        if value:
            raise ValueError(
                "ε-DPO has no label smoothing (in the released code both of its terms carry the same sign, so that it "
                "does nothing); remove it, or use method dpo with smoothing"
            )
        return value


class EpsilonDPO(Method[EpsilonDPOConfig]):
    Config = EpsilonDPOConfig

    def __init__(self, config: EpsilonDPOConfig) -> None:
        super().__init__(config)
        self.beta = config.beta
        self.eps_s = config.epsilon if config.eps_s is None else config.eps_s

    @property
    def eps_c(self) -> float:
        return self.config.epsilon if self.config.eps_c is None else self.config.eps_c

    @property
    def step_precision(self) -> Literal["exact", "fp32", "official_bf16"]:
        return self.config.step_precision

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        exact = self.step_precision == "exact"
        names = ("delta_minus", "delta_plus") if exact else ("logps_beta_minus", "logps_beta_plus")
        z, gamma, z_minus, z_plus = (self._margin(chosen, rejected, name) for name in ("policy", "reference", *names))
        h = self._rounded(z - gamma)
        start = z_minus.new_zeros(()) if exact else z.detach()  # the margins of `delta` are counted from z
        steps = epsilon_steps(start, z_minus, z_plus)
        kl_chosen, kl_rejected = (required(side.kl_policy_ref, "kl_policy_ref") for side in (chosen, rejected))
        return PairLoss(
            losses=epsilon_loss(h, steps, self.beta, self.eps_s),
            # With the beta all pairs share and not beta~, whose changes from pair to pair would blur the rewards.
            chosen_rewards=self.beta * chosen.logratios.detach(),
            rejected_rewards=self.beta * rejected.logratios.detach(),
            metrics={
                "eps/lowered": (steps > 0).to(z.dtype),
                "eps/raised": (steps < 0).to(z.dtype),
                "eps/kept": (steps == 0).to(z.dtype),
                "eps/mean_step": steps,
                "eps/mean_abs": (z_minus - start).abs(),
                # d z_minus / d ε at ε = 0, whose sign is the decision to first order: margin minus KL difference.
                "eps/d1": h.detach() - (kl_chosen - kl_rejected),
            },
        )

    def after_step(
        self, step: int, means: Mapping[str, float], policy: "nn.Module", reference: "nn.Module | None"
    ) -> dict[str, float]:
        used = self.beta
        if self.config.beta_update == "released":
            self.beta = beta_by_released(used, self.eps_s, means["eps/mean_step"])
        else:
            self.beta = beta_by_paper(used, self.eps_s, means["eps/lowered"], means["eps/raised"])
        return {"eps/beta": used, "eps/beta_next": self.beta}

    def _margin(self, chosen: Logps, rejected: Logps, name: str) -> "Tensor":
        """Chosen minus rejected of the log-probs `name`, [B]."""
        of_chosen, of_rejected = (self._rounded(required(getattr(side, name), name)) for side in (chosen, rejected))
        return self._rounded(of_chosen - of_rejected)

    def _rounded(self, x: "Tensor") -> "Tensor":
        """`x` as the step's precision holds it, in its own dtype; so is its gradient."""
        return x.bfloat16().to(x.dtype) if self.step_precision == "official_bf16" else x

    def state_dict(self) -> dict[str, Any]:
        return {"beta": self.beta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.beta = state["beta"]


METHOD = EpsilonDPO
