"""Pairwise CRINGE (Xu et al. 2023, arXiv 2312.16682): the binary CRINGE loss behind a gate that closes per pair.

The binary loss (SFT on the chosen answer, a contrast per token on the rejected one) of a pair is multiplied with
g = sigma((b - M) / tau), M being the log-prob margin between its answers: a pair with M well above b is not trained on.

M is a difference of sums over tokens: over hundreds of tokens it is tens of nats, and with a small tau the gate is all
or nothing. `pairwise_cringe/closed` shows it.

Differences from the paper: it does not say whether the gate is differentiated. Here it is a constant unless
`gate_gradient`. The paper's rounds of sampling new pairs are not part of the loss; this is one round.
"""

from typing import Annotated

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, SFTReduction, cringe, reduced

CLOSED = 0.01  # a gate below this is logged as closed: the pair has next to no gradient


class PairwiseCringeConfig(MethodConfig):
    alpha: Annotated[float, Field(ge=0.0)]  # weight of the contrast
    k: Annotated[int, Field(ge=1)]  # likeliest tokens from which the alternative is drawn; 1 is the likeliest itself
    b: float  # margin at which the gate is half open, in nats
    tau: Annotated[float, Field(gt=0.0)]  # softness of the gate, in nats
    gate_gradient: bool = False  # whether the loss also falls by closing the gate
    sft_reduction: SFTReduction = "mean"  # of both terms: over the tokens of both answers


class PairwiseCringe(Method[PairwiseCringeConfig]):
    Config = PairwiseCringeConfig
    needs_reference = False

    @property
    def alternatives(self) -> int:
        return self.config.k

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        config = self.config
        nll = reduced(-chosen.policy, [chosen, rejected], config.sft_reduction)
        contrast = reduced(cringe(rejected), [chosen, rejected], config.sft_reduction)
        gate = ((config.b - (chosen.policy - rejected.policy)) / config.tau).sigmoid()
        if not config.gate_gradient:
            gate = gate.detach()
        return PairLoss(
            losses=gate * (nll + config.alpha * contrast),
            chosen_rewards=chosen.policy.detach(),
            rejected_rewards=rejected.policy.detach(),
            metrics={
                "nll_loss": nll.detach(),  # both terms before the gate
                "cringe_loss": contrast.detach(),
                "pairwise_cringe/gate": gate.detach(),
                "pairwise_cringe/closed": (gate < CLOSED).to(gate.dtype),
            },
        )


METHOD = PairwiseCringe
