"""Binary CRINGE (Adolphs et al. 2022, arXiv 2211.05826): SFT on chosen answers, a contrast per token on rejected ones.

At each token of the rejected answer the model is trained to prefer another token, drawn from its own k likeliest, to
the one in its place, so what is pushed down comes with something else to say instead.

Differences from ParlAI's code (projects/cringe): `sft_reduction: token_mean` is its average over all target tokens;
the default `mean` weighs every pair alike instead. Both logits of the contrast carry the gradient, as there by default.
"""

from typing import Annotated

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, SFTReduction, cringe, reduced


class BinaryCringeConfig(MethodConfig):
    alpha: Annotated[float, Field(ge=0.0)]  # weight of the contrast (ParlAI's ct_loss_weight); 0 leaves the SFT term
    k: Annotated[int, Field(ge=1)]  # likeliest tokens from which the alternative is drawn; 1 is the likeliest itself
    sft_reduction: SFTReduction = "mean"  # of both terms: over the tokens of both answers


class BinaryCringe(Method[BinaryCringeConfig]):
    Config = BinaryCringeConfig
    needs_reference = False

    @property
    def alternatives(self) -> int:
        return self.config.k

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        reduction = self.config.sft_reduction
        nll = reduced(-chosen.policy, [chosen, rejected], reduction)
        contrast = reduced(cringe(rejected), [chosen, rejected], reduction)
        return PairLoss(
            losses=nll + self.config.alpha * contrast,
            chosen_rewards=chosen.policy.detach(),
            rejected_rewards=rejected.policy.detach(),
            metrics={"nll_loss": nll.detach(), "cringe_loss": contrast.detach()},
        )


METHOD = BinaryCringe
