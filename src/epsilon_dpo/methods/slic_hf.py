"""SLiC-HF (Zhao et al. 2023, arXiv 2305.10425): make the chosen answer likelier than the rejected one by a margin.

A hinge on the difference of the log-probs (sums over tokens) and an SFT term. No reference.

Differences from the paper: the SFT term fits the chosen answer of the pair, where the paper fits the answers of its
SFT data, and it is by default a mean per token instead of a sum (`sft_reduction: sum` is the paper's).

Differences from TRL: its DPOTrainer with `loss_type="hinge"` has another loss, relative to a reference and without SFT
term. Its CPOTrainer with "hinge", beta = 1 / delta and cpo_alpha = lam / delta has this one (`token_mean`), over delta.
"""

from typing import Annotated

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, SFTReduction, nll


class SLiCHFConfig(MethodConfig):
    delta: Annotated[float, Field(gt=0.0)]  # margin in nats per answer
    lam: Annotated[float, Field(ge=0.0)]  # weight of the SFT term
    sft_reduction: SFTReduction = "mean"


class SLiCHF(Method[SLiCHFConfig]):
    Config = SLiCHFConfig
    needs_reference = False

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        hinge = (self.config.delta - chosen.policy + rejected.policy).relu()
        sft = nll(chosen, self.config.sft_reduction)
        return PairLoss(
            losses=hinge + self.config.lam * sft,
            chosen_rewards=chosen.policy.detach(),
            rejected_rewards=rejected.policy.detach(),
            # Pairs that still miss the margin: the others have a gradient from the SFT term alone.
            metrics={"nll_loss": sft.detach(), "slic_hf/active": (hinge > 0).to(hinge.dtype)},
        )


METHOD = SLiCHF
