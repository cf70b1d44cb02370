"""DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7): logistic loss on the difference of the two log-ratios.

Where a share `label_smoothing` of the preferences is believed to be the wrong way round, `smoothing` says what is done:
`conservative` is cDPO (Mitchell 2023, "A note on DPO with noisy preferences"), the expected loss under flipped labels,
which stops pulling at sigma(beta h) = 1 - label_smoothing; `robust` is rDPO (Chowdhury et al. 2024, arXiv 2403.00409;
TRL's "robust"), whose mean over flipped labels is DPO's loss on the right ones; it may be negative and has no lower
bound.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, log_sigmoid


class DPOConfig(MethodConfig):
    beta: Annotated[float, Field(gt=0.0)]
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0  # share of labels believed to be flipped
    smoothing: Literal["conservative", "robust"] | None = None

    @model_validator(mode="after")
    def _both_or_neither(self) -> "DPOConfig":
        if self.label_smoothing > 0.0 and self.smoothing is None:
            raise ValueError("label_smoothing needs smoothing: conservative (cDPO) or robust (rDPO)")
        if self.smoothing is not None and self.label_smoothing == 0.0:
            raise ValueError("smoothing does nothing without label_smoothing above 0; set it, or remove smoothing")
        return self


class DPO(Method[DPOConfig]):
    Config = DPOConfig

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        beta, flipped = self.config.beta, self.config.label_smoothing
        logits = beta * (chosen.logratios - rejected.logratios)
        losses = -log_sigmoid(logits)  # eq. 7
        if self.config.smoothing == "conservative":
            losses = (1.0 - flipped) * losses - flipped * log_sigmoid(-logits)
        elif self.config.smoothing == "robust":
            losses = ((1.0 - flipped) * losses + flipped * log_sigmoid(-logits)) / (1.0 - 2.0 * flipped)
        return PairLoss(
            losses=losses,
            chosen_rewards=beta * chosen.logratios.detach(),
            rejected_rewards=beta * rejected.logratios.detach(),
        )


METHOD = DPO
