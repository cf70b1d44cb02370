"""TDPO (Zeng et al. 2024, arXiv 2404.11999): DPO that also holds the two answers' KL from the reference together.

With K = sum_t KL(ref(.|s_t) || pi(.|s_t)) along an answer, over the whole vocabulary and with its gradient,

    version 1   L = -log sigma(beta (h - (K_l - K_w)))
    version 2   L = -log sigma(beta (h - alpha (K_l - sg K_w)))

Version 1 is what maximising a reward under a KL penalty per token gives; it raises the chosen answer's divergence while
it lowers the rejected one's. Version 2 leaves the chosen one's alone and scales the term. alpha 0 is DPO.

Differences from the released code (Vance0124/Token-level-Direct-Preference-Optimization):
- The logits behind K are never held at once (models/logps/kernel.py); there they are, of policy and reference.
- The rewards are DPO's, beta times the log-ratios, so that methods can be compared; there K is added to them.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, log_sigmoid, required


class TDPOConfig(MethodConfig):
    beta: Annotated[float, Field(gt=0.0)]
    version: Literal[1, 2]
    alpha: Annotated[float, Field(ge=0.0)] | None = None  # of version 2 alone

    @model_validator(mode="after")
    def _alpha_is_version_2s(self) -> "TDPOConfig":
        if (self.alpha is None) == (self.version == 2):
            raise ValueError("version: 2 needs alpha (0.5 in its paper), and version: 1 has none")
        return self


class TDPO(Method[TDPOConfig]):
    Config = TDPOConfig
    kl_gradient = True

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        beta, alpha = self.config.beta, self.config.alpha
        kl_chosen = required(chosen.kl_ref_policy, "kl_ref_policy")
        kl_rejected = required(rejected.kl_ref_policy, "kl_ref_policy")
        difference = kl_rejected - kl_chosen if alpha is None else alpha * (kl_rejected - kl_chosen.detach())
        return PairLoss(
            losses=-log_sigmoid(beta * (chosen.logratios - rejected.logratios - difference)),
            chosen_rewards=beta * chosen.logratios.detach(),
            rejected_rewards=beta * rejected.logratios.detach(),
            metrics={"tdpo/kl_chosen": kl_chosen.detach(), "tdpo/kl_rejected": kl_rejected.detach()},
        )


METHOD = TDPO
