"""Length-normalised DPO (Lambert et al. 2024, "Tulu 3", arXiv 2411.15124): DPO on log-ratios per token.

A log-ratio is a sum over tokens and grows with the answer. Divided by the answer's length it does not, and beta, which
now scales nats per token, is larger than DPO's: 5 in the authors' commands. It is not SimPO: there is a reference, and
no margin.

No difference from the released codes: open-instruct's `dpo_norm` and TRL's DPOTrainer(loss_type="sigmoid_norm") are the
same formula. TRL logs beta times the sums as rewards; ours are what the loss compares.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, log_sigmoid

if TYPE_CHECKING:
    from torch import Tensor


class DPONormConfig(MethodConfig):
    beta: Annotated[float, Field(gt=0.0)]  # per nat of log-ratio per token


class DPONorm(Method[DPONormConfig]):
    Config = DPONormConfig

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        chosen_reward, rejected_reward = self._reward(chosen), self._reward(rejected)
        return PairLoss(
            losses=-log_sigmoid(chosen_reward - rejected_reward),
            chosen_rewards=chosen_reward.detach(),
            rejected_rewards=rejected_reward.detach(),
        )

    def _reward(self, side: Logps) -> "Tensor":
        """beta times the mean log-ratio of the answer's tokens, [B]; 0 for an empty answer."""
        return self.config.beta * (side.logratios / side.tokens.clamp(min=1))


METHOD = DPONorm
