"""What a method is: a typed config, a pure loss of log-probs and, if it needs one, a state that follows the steps.

The trainer knows methods only through this file. It hands `Method.loss` the log-probs of one micro-batch, averages what
comes back over the whole optimizer step (all micro-batches, all ranks) and hands the averages to `Method.after_step`.

Importing a method does not import torch: stages/check.py validates every run's config through it. Methods do not
import each other: align@RUN depends on the file of its own method, and a change of one method re-runs only that one.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import Field

from epsilon_dpo.pipeline.stage.params import Seed, Strict

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class MethodConfig(Strict):
    """The entry of a run in params.yaml; a method adds its own."""

    method: str
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] | None = None  # null or absent: align.learning_rate
    seed: Seed | None = None  # of this training alone; null or absent: the pipeline's
    snapshot_epochs: Annotated[float, Field(ge=0.001)] | None = None  # also keep the policy every so many epochs


N = TypeVar("N", bound=MethodConfig)


@dataclass(frozen=True)
class Logps:
    """Log-probs of one completion per pair of a micro-batch of B pairs.

    Sums run over the completion's tokens (the stop token counts, prompt and padding do not), in nats, in float64
    (float32 if `step_precision` is `official_bf16`). Only `policy`, `policy_tokens` and `alternative_tokens` carry a
    gradient, and `kl_ref_policy` if `kl_gradient`. What the method did not ask for is None. A float is the mean over
    all pairs of the optimizer step, the same on every rank and in every micro-batch, so a loss does not depend on how
    the step was split; evaluation takes it over the pairs it has.

    Attributes:
        policy: log pi_theta(y|x), [B].
        tokens: |y|, the number of tokens summed over, [B]; may be 0.
        reference: log pi_ref(y|x), [B]; if `needs_reference`.
        logps_beta_minus: [B], log-prob under pi(beta-): per token softmax((1+ε) f_theta - ε f_ref) with the method's
            `eps_c` for ε; if `eps_c` is set and `step_precision` is not `exact`.
        logps_beta_plus: [B], log-prob under pi(beta+): per token softmax((1-ε) f_theta + ε f_ref); likewise.
        delta_minus: [B], log-prob under pi(beta-) minus `policy`, made without subtracting them; if `eps_c` is set and
            `step_precision` is `exact`.
        delta_plus: [B], the same of pi(beta+).
        kl_ref_policy: [B], sum_t KL(pi_ref(.|s_t) || pi_theta(.|s_t)) over the full vocabulary; if `needs_reference`.
            Both KLs are of the initial reference, also for a method that moves its own.
        kl_policy_ref: [B], sum_t KL(pi_theta(.|s_t) || pi_ref(.|s_t)); if `needs_reference`.
        initial: [B], log-prob under the initial reference; if `moves_reference`.
        entropy: [B], sum_t of the policy's entropy over the full vocabulary.
        mean_tokens: mean of `tokens`.
        mean_mismatched: mean of log pi_theta(y'|x) - log pi_ref(y'|x), y' being the same side's answer to another
            prompt; if `mismatched`.
        policy_tokens: [B, T], the summands of `policy`, zero outside the completion; if `alternatives` is set.
        alternative_tokens: [B, T], log-prob of another token at the same place: one of the policy's `alternatives`
            likeliest tokens other than y_t, drawn in proportion to their probability; if `alternatives` is set.
        mask: [B, T], true on the completion's tokens; if `alternatives` is set.
        log_sum_sq_probs: [B], sum_t of log sum_v pi_theta(v|s_t)^2; if `sum_sq_probs`.
        score: [B], what the completion is worth in nats by a judge or the truth, not by the policy: the difference of a
            pair's two scores is a Bradley-Terry margin (stage `margins`); if `needs_scores`.
        flip_rate: [B], how likely the pair's label is the wrong way round, on both sides; if `needs_flip_rates`.
    """

    policy: "Tensor"
    tokens: "Tensor"
    reference: "Tensor | None" = None
    logps_beta_minus: "Tensor | None" = None
    logps_beta_plus: "Tensor | None" = None
    kl_ref_policy: "Tensor | None" = None
    kl_policy_ref: "Tensor | None" = None
    initial: "Tensor | None" = None
    entropy: "Tensor | None" = None
    mean_tokens: float | None = None
    mean_mismatched: float | None = None
    policy_tokens: "Tensor | None" = None
    alternative_tokens: "Tensor | None" = None
    mask: "Tensor | None" = None
    delta_minus: "Tensor | None" = None
    delta_plus: "Tensor | None" = None
    log_sum_sq_probs: "Tensor | None" = None
    score: "Tensor | None" = None
    flip_rate: "Tensor | None" = None

    @property
    def logratios(self) -> "Tensor":
        """log pi_theta(y|x) - log pi_ref(y|x), [B]; only for a method that needs a reference."""
        return self.policy - required(self.reference, "reference")

    @property
    def per_token(self) -> "Tensor":
        """Mean log-prob of the completion's tokens, [B]; 0 for an empty one."""
        return self.policy / self.tokens.clamp(min=1)


SFTReduction = Literal["mean", "sum", "token_mean"]


def nll(chosen: Logps, reduction: SFTReduction) -> "Tensor":
    """Negative log-likelihood of the chosen answers, the SFT term of a loss, [B]; its mean over pairs is minimised."""
    return reduced(-chosen.policy, [chosen], reduction)


def reduced(total: "Tensor", answers: Sequence[Logps], reduction: SFTReduction) -> "Tensor":
    """`total`, a sum over the tokens of `answers` per pair, [B].

    `mean` divides it by each pair's number of these tokens, `sum` leaves it, `token_mean` weighs every token of the
    optimizer step alike (as nn.CrossEntropyLoss and TRL do): then a long answer counts for more.
    """
    if reduction == "sum":
        return total
    if reduction == "mean":
        lengths: Tensor = sum(answer.tokens for answer in answers)  # type: ignore[assignment]
        return total / lengths.clamp(min=1)
    return total / max(sum(required(answer.mean_tokens, "mean_tokens") for answer in answers), 1.0)


def cringe(rejected: Logps) -> "Tensor":
    """CRINGE's contrast of the rejected answers' tokens with their alternatives, in nats, summed over tokens, [B].

    -sum_t log(exp(s*_t) / (exp(s*_t) + exp(s_t[y_t]))). It holds differences of logits only, and those of log-probs are
    the same. Positions outside the answer hold 0 on both sides and would count log 2 each if they were not masked.
    """
    alternative = required(rejected.alternative_tokens, "alternative_tokens")
    per_token = log_sigmoid(alternative - required(rejected.policy_tokens, "policy_tokens"))
    return -per_token.masked_fill(~required(rejected.mask, "mask"), 0.0).sum(-1)


@dataclass(frozen=True)
class PairLoss:
    """What a method makes of a micro-batch; every tensor is [B].

    Attributes:
        losses: per pair, with gradient; their mean over the optimizer step is what is minimised.
        chosen_rewards: the method's implicit reward of the chosen completion, without gradient (TRL's rewards/chosen).
        rejected_rewards: the same of the rejected completion.
        metrics: further values per pair under the names they are logged by; their mean over the optimizer step reaches
            `Method.after_step`.
    """

    losses: "Tensor"
    chosen_rewards: "Tensor"
    rejected_rewards: "Tensor"
    metrics: "dict[str, Tensor]" = field(default_factory=dict)


class Method(ABC, Generic[N]):
    """One preference-optimisation method with its config and its state.

    Class attributes:
        Config: the type of the run's entry in params.yaml.
        needs_reference: whether the frozen SFT model is loaded and run; a method whose config decides sets it itself.
        moves_reference: whether `after_step` changes the reference's weights, which then belong to a checkpoint.
        mismatched: whether every prompt is also scored with another prompt's answers (two more forward passes).
        looks_ahead: whether `before_step` is called. Under gradient accumulation this costs a forward pass more, and
            one of the reference if it is needed.
        needs_scores: whether out/margins must hold a score of each answer.
        needs_flip_rates: whether out/pairs must hold a `flip_rate` of each pair; a config may decide it, too.
        kl_gradient: whether `Logps.kl_ref_policy` carries a gradient (one more product with the reference's head).
    """

    Config: ClassVar[type[MethodConfig]]
    needs_reference: bool = True
    moves_reference: ClassVar[bool] = False
    mismatched: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False
    needs_scores: ClassVar[bool] = False
    needs_flip_rates: bool = False
    kl_gradient: ClassVar[bool] = False

    def __init__(self, config: N) -> None:
        self.config = config

    @property
    def eps_c(self) -> float | None:
        """Size of the perturbation whose changes of a log-prob are computed, see `Logps`; None: they are not."""
        return None

    @property
    def step_precision(self) -> Literal["exact", "fp32", "official_bf16"]:
        """How the changes are computed (models/logps/tiles.py); `official_bf16` also rounds all log-probs."""
        return "exact"

    @property
    def alternatives(self) -> int | None:
        """Number of likeliest tokens from which `alternative_tokens` are drawn; None: they are not computed."""
        return None

    @property
    def sum_sq_probs(self) -> bool:
        """Whether `log_sum_sq_probs` is computed."""
        return False

    @property
    def min_pairs(self) -> int:
        """Pairs an optimizer step must hold for this config to make sense; checked when params.yaml is read."""
        return 1

    @property
    def min_steps(self) -> int:
        """Optimizer steps without which this config would be another method; checked when the training begins."""
        return 1

    @abstractmethod
    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        """The loss of a micro-batch: a pure function of its log-probs, the config and the present state."""

    def looked_at(self, chosen: Logps, rejected: Logps) -> "Tensor":
        """What `before_step` sees of each pair, [B]; the log-ratio margin h unless a method looks at something else.

        Made of `policy`, `tokens` and, if `needs_reference`, `reference` alone: a look ahead computes nothing more.
        """
        return chosen.logratios - rejected.logratios

    def before_step(self, values: "Tensor", generator: "torch.Generator") -> "Tensor":
        """Look at all pairs of the coming optimizer step; called for training only, under torch.no_grad on every rank.

        Args:
            values: `looked_at` of the step's n pairs, float64 [n] on the CPU: the same values in the same order,
                whatever the split into micro-batches and ranks.
            generator: CPU random numbers that depend on the seed and the number of the step only.

        Returns:
            weights, [n]: each pair's loss is multiplied with its weight before the mean over all n is taken.
        """
        raise NotImplementedError

    def after_step(
        self, step: int, means: Mapping[str, float], policy: "nn.Module", reference: "nn.Module | None"
    ) -> dict[str, float]:
        """Move the state on after optimizer step `step` (the first is 1); called under torch.no_grad on every rank.

        Args:
            step: number of optimizer steps done.
            means: mean of `loss` and of each of PairLoss.metrics over all pairs of the step, whatever its split into
                micro-batches and ranks: sums and counts are added up in float64 before they are divided.
            policy: the model after the step.
            reference: the reference model; only a method with `moves_reference` may change it.

        Returns:
            values to log; what this step used stands under its own name.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON values (without the reference's weights, which the trainer keeps); saved in checkpoints."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        if state:
            raise ValueError(f"{type(self).__name__} has no state, but the checkpoint holds {sorted(state)}")


V = TypeVar("V")


def required(value: V | None, name: str) -> V:
    """`value`, which the trainer computes only for a method that declares its need."""
    if value is None:
        raise ValueError(f"the log-probs hold no `{name}`: the method did not ask for it")
    return value


def log_sigmoid(x: "Tensor") -> "Tensor":
    """log(1 / (1 + exp(-x))), stable at both ends; same shape as `x`, which must be float32 or wider."""
    from torch.nn.functional import logsigmoid  # here, so that checking a run's config does not load torch

    return logsigmoid(x)
