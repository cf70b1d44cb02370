"""DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7): logistic loss on the difference of the two log-ratios.

Where a share e of the preferences is believed to be the wrong way round, `smoothing` says what is done, x = beta h:

- `conservative`, cDPO (Mitchell 2023, "A note on DPO with noisy preferences"): the expected loss under flipped labels,
  which stops pulling at sigma(x) = 1 - e.
- `robust`, rDPO (Chowdhury et al. 2024, arXiv 2403.00409; TRL's "robust"): its mean over flipped labels is DPO's loss
  on the right ones; it may be negative and has no lower bound.
- `forward`, the negative log-likelihood of labels that are flipped at the rate e, -log((1 - e) sigma(x) + e sigma(-x))
  (forward correction: Patrini et al. 2017, arXiv 1609.03683): at most -log e, so a pair that the policy is sure is
  wrong pulls no more.

e is `label_smoothing`, or with `flip_by: annotator` each pair's own rate, which the data state.

`divergence: forward_kl` puts D(pi_ref || pi_theta) in the place of the KL penalty (f-DPO, Wang et al. 2023, arXiv
2309.16240; TRL's f_divergence_type): the log-ratio r of an answer becomes 1 - exp(-r).
"""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, log_sigmoid, required

if TYPE_CHECKING:
    from torch import Tensor


class DPOConfig(MethodConfig):
    beta: Annotated[float, Field(gt=0.0)]
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0  # share of labels believed to be flipped
    flip_by: Literal["annotator"] | None = None  # each pair's own share in the place of that one
    smoothing: Literal["conservative", "robust", "forward"] | None = None
    divergence: Literal["reverse_kl", "forward_kl"] = "reverse_kl"  # KL(policy || reference), or the other way round

    @model_validator(mode="after")
    def _rate_and_smoothing_go_together(self) -> "DPOConfig":
        same_for_all, own, smooths = self.label_smoothing > 0.0, self.flip_by is not None, self.smoothing is not None
        if same_for_all and own:
            raise ValueError("flip_by takes each pair's own rate, so label_smoothing would not be read; remove one")
        has_rate = same_for_all or own
        if has_rate and not smooths:
            name = "flip_by" if own else "label_smoothing"
            raise ValueError(f"{name} needs smoothing: conservative (cDPO), robust (rDPO) or forward (likelihood)")
        if smooths and not has_rate:
            raise ValueError(
                "smoothing does nothing without label_smoothing above 0 or flip_by: annotator; set one, or remove "
                "smoothing"
            )
        if smooths and self.divergence == "forward_kl":
            raise ValueError(
                "smoothing keeps pulling at some pairs whose margin is large, where the scores of divergence: "
                "forward_kl have no bound; remove divergence, or smoothing with label_smoothing and flip_by"
            )
        return self


class DPO(Method[DPOConfig]):
    Config = DPOConfig

    def __init__(self, config: DPOConfig) -> None:
        super().__init__(config)
        self.needs_flip_rates = config.flip_by is not None

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        beta, scores = self.config.beta, (chosen.logratios, rejected.logratios)
        if self.config.divergence == "forward_kl":
            scores = forward_kl_scores(*scores)
        logits = beta * (scores[0] - scores[1])
        metrics: dict[str, Tensor] = {}
        losses = -log_sigmoid(logits)  # eq. 7
        if self.config.smoothing is not None:
            flip = required(chosen.flip_rate, "flip_rate") if self.needs_flip_rates else self.config.label_smoothing
            if self.config.smoothing == "conservative":
                losses = (1.0 - flip) * losses - flip * log_sigmoid(-logits)
            elif self.config.smoothing == "robust":
                losses = ((1.0 - flip) * losses + flip * log_sigmoid(-logits)) / (1.0 - 2.0 * flip)
            else:
                losses, flipped = flip_likelihood(logits, flip)
                metrics["dpo/flipped"] = flipped
        return PairLoss(
            losses=losses,
            chosen_rewards=beta * scores[0].detach(),
            rejected_rewards=beta * scores[1].detach(),
            metrics=metrics,
        )


def flip_likelihood(logits: "Tensor", flip: "Tensor | float") -> "tuple[Tensor, Tensor]":
    """The negative log-likelihood of labels flipped at the rate `flip`, and the probability that they were.

    Args:
        logits: x, [B]; sigma(x) is the probability that the chosen answer is preferred.
        flip: e, in [0, 1/2); [B] or one for all.

    Returns:
        -log((1 - e) sigma(x) + e sigma(-x)), and without gradient e sigma(-x) divided by the same sum, [B] each.
    """
    import torch  # here, so that checking a run's config does not load torch

    rate = torch.as_tensor(flip, dtype=logits.dtype, device=logits.device)
    kept, flipped = log_sigmoid(logits) + torch.log1p(-rate), log_sigmoid(-logits) + torch.log(rate)
    total = torch.logaddexp(kept, flipped)
    return -total, (flipped - total).exp().detach()


def forward_kl_scores(chosen: "Tensor", rejected: "Tensor") -> "tuple[Tensor, Tensor]":
    """1 - exp(-r) of the log-ratios r of both answers, [B] each.

    For an answer that the policy has dropped this falls, and its gradient exp(-r) grows, beyond any bound. Of a chosen
    answer neither is hidden: the loss overflows, and the training stops. Of a rejected one the loss' gradient goes to
    zero much faster, but as a product of 0 and infinity; there r ends where sums of such numbers are still finite.
    """
    import torch

    lowest = 1.0 - math.log(torch.finfo(rejected.dtype).max) / 2.0
    return -torch.expm1(-chosen), -torch.expm1(-rejected.clamp(min=lowest))


METHOD = DPO
