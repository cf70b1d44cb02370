"""TR-DPO (Gorbatovski et al. 2024, arXiv 2404.09656): DPO whose reference follows the policy.

Every `sync_steps` optimizer steps the reference becomes the policy (`update: hard`, TR-DPO^tau) or moves the share
`alpha` of the way towards it (`update: soft`, TR-DPO^alpha). TRL's SyncRefModelCallback takes both values at once;
here they are two variants, and a checkpoint holds the moved reference, which TRL forgets.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, log_sigmoid

if TYPE_CHECKING:
    from torch import nn


class TRDPOConfig(MethodConfig):
    beta: Annotated[float, Field(gt=0.0)]
    update: Literal["hard", "soft"]
    sync_steps: Annotated[int, Field(ge=1)]  # tau: optimizer steps between two updates of the reference
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None  # soft only

    @model_validator(mode="after")
    def _alpha_belongs_to_soft(self) -> "TRDPOConfig":
        if self.update == "soft" and self.alpha is None:
            raise ValueError("update: soft needs alpha, the share of the way to the policy")
        if self.update == "hard" and self.alpha is not None:
            raise ValueError("update: hard copies the policy and has no alpha; remove alpha, or write update: soft")
        return self


def move_reference(reference: "nn.Module", policy: "nn.Module", alpha: float) -> None:
    """ref <- alpha theta + (1 - alpha) ref, in place, over all parameters (buffers are constants of the architecture).

    `lerp_` and not multiply-and-add: in bfloat16 the latter changes weights that are equal on both sides.
    """
    for target, source in zip(reference.parameters(), policy.parameters(), strict=True):
        target.lerp_(source.to(target), alpha)


class TRDPO(Method[TRDPOConfig]):
    Config = TRDPOConfig
    moves_reference = True

    def __init__(self, config: TRDPOConfig) -> None:
        super().__init__(config)
        self.syncs = 0

    @property
    def min_steps(self) -> int:
        return self.config.sync_steps + 1  # the first that sees the moved reference; DPO until then

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        beta = self.config.beta
        return PairLoss(
            losses=-log_sigmoid(beta * (chosen.logratios - rejected.logratios)),
            chosen_rewards=beta * chosen.logratios.detach(),
            rejected_rewards=beta * rejected.logratios.detach(),
        )

    def after_step(
        self, step: int, means: Mapping[str, float], policy: "nn.Module", reference: "nn.Module | None"
    ) -> dict[str, float]:
        if step % self.config.sync_steps == 0:
            assert reference is not None
            move_reference(reference, policy, 1.0 if self.config.alpha is None else self.config.alpha)
            self.syncs += 1
        return {"tr_dpo/syncs": float(self.syncs)}

    def state_dict(self) -> dict[str, Any]:
        return {"syncs": self.syncs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.syncs = state["syncs"]


METHOD = TRDPO
