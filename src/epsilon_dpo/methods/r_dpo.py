"""R-DPO (Park et al. 2024, arXiv 2403.19159): DPO with a reward that is charged `alpha` per token of the answer.

max E[r - alpha |y|] - beta KL gives r = beta log(pi/ref) + alpha |y| + const, so the lengths enter the logistic loss
with a plus: a longer chosen answer is partly explained by its length and pulls less. (Some later papers print a minus,
which would reward length.) Lengths are in tokens; the authors released no code.

alpha |difference of lengths| easily exceeds beta |h| early in training (alpha .05 and 100 tokens: 5): such pairs are
decided by their length alone, hence the metrics.
"""

from typing import Annotated

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, log_sigmoid


class RDPOConfig(MethodConfig):
    beta: Annotated[float, Field(gt=0.0)]
    alpha: Annotated[float, Field(ge=0.0)]  # nats of reward per token; 0 is DPO


class RDPO(Method[RDPOConfig]):
    Config = RDPOConfig

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        beta = self.config.beta
        logits = beta * (chosen.logratios - rejected.logratios)
        # Converted before multiplying: an integer tensor times a float is float32, also where the loss is float64.
        length_term = self.config.alpha * (chosen.tokens - rejected.tokens).to(logits.dtype)
        return PairLoss(
            losses=-log_sigmoid(logits + length_term),
            # The reward less its charge for length, which is what the policy is optimal for; as DPO's.
            chosen_rewards=beta * chosen.logratios.detach(),
            rejected_rewards=beta * rejected.logratios.detach(),
            metrics={
                "r_dpo/length_term": length_term,
                "r_dpo/length_term_abs": length_term.abs(),
                "r_dpo/length_dominates": (length_term.abs() > logits.detach().abs()).to(logits.dtype),
            },
        )


METHOD = RDPO
