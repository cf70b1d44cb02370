"""What every method logs, under TRL's names, and exact means over micro-batches and ranks."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from epsilon_dpo.methods.interface import Logps, PairLoss

if TYPE_CHECKING:
    from accelerate import Accelerator


def pair_metrics(chosen: Logps, rejected: Logps, loss: PairLoss) -> dict[str, Tensor]:
    """Metrics per pair, [B] each: those of the method, and those that all methods share.

    `margins_raw` is h, the log-ratio margin without any beta, which alone is comparable between methods. `entropy` is
    the policy's, per token of both answers. The KLs are of the initial reference, also where a method moves its own:
    `kl/fwd_data` is sum_t KL(ref || pi) along the chosen answers, `kl/rev_data` the other direction, `kl/fwd_proxy` the
    estimate -(log pi - log ref) of the first on data that the reference was trained on.
    """
    metrics = {
        "loss": loss.losses,
        "rewards/chosen": loss.chosen_rewards,
        "rewards/rejected": loss.rejected_rewards,
        "rewards/margins": loss.chosen_rewards - loss.rejected_rewards,
        "rewards/accuracies": loss.chosen_rewards > loss.rejected_rewards,
        "logps/chosen": chosen.policy,
        "logps/rejected": rejected.policy,
        "logps_per_token/chosen": chosen.per_token,
        "logps_per_token/rejected": rejected.per_token,
        "tokens/chosen": chosen.tokens,
        "tokens/rejected": rejected.tokens,
    }
    if chosen.entropy is not None and rejected.entropy is not None:
        metrics["entropy"] = (chosen.entropy + rejected.entropy) / (chosen.tokens + rejected.tokens).clamp(min=1)
    if chosen.reference is not None and chosen.kl_ref_policy is not None and chosen.kl_policy_ref is not None:
        metrics["margins_raw"] = chosen.logratios - rejected.logratios
        metrics["kl/fwd_data"] = chosen.kl_ref_policy
        metrics["kl/rev_data"] = chosen.kl_policy_ref
        metrics["kl/fwd_proxy"] = (chosen.reference if chosen.initial is None else chosen.initial) - chosen.policy
    return {name: values.detach().double() for name, values in (metrics | loss.metrics).items()}


class Totals:
    """Sums and counts in float64, so that a mean does not depend on how its pairs were split."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.sums: Tensor | None = None  # [K+1]; the last one counts pairs

    def add(self, metrics: dict[str, Tensor]) -> None:
        """One micro-batch of [B] values per name; every call must bring the same names."""
        values = torch.stack(list(metrics.values()))
        sums = torch.cat([values.sum(1), values.new_full((1,), values.shape[1])])  # no copy to the device, which waits
        self._merge(tuple(metrics), sums)

    def take_over_ranks(self, accelerator: "Accelerator") -> "Totals":
        """The totals of all ranks; this object starts again at zero."""
        of_all = Totals()
        if self.sums is not None:
            of_all._merge(self.names, accelerator.reduce(self.sums, "sum"))
        self.sums = None
        return of_all

    def merge(self, other: "Totals") -> None:
        if other.sums is not None:
            self._merge(other.names, other.sums)

    def means(self) -> dict[str, float]:
        """Mean per pair by name; empty if nothing was added."""
        if self.sums is None:
            return {}
        *sums, count = self.sums.tolist()
        return {name: total / count for name, total in zip(self.names, sums, strict=True)}

    def _merge(self, names: tuple[str, ...], sums: Tensor) -> None:
        if self.sums is not None and names != self.names:
            raise ValueError(f"the metrics changed from {self.names} to {names}")
        self.names, self.sums = names, sums if self.sums is None else self.sums + sums
