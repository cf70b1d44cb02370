"""What an online method is: it learns from scores of its own answers, where a `Method` learns from given pairs.

A generation is `prompts_per_step` prompts with `k` answers each, drawn from the present policy and scored by stage
`scorer`. The trainer hands the whole of it to `OnlineMethod.advantages`, in float64, and then takes `passes` x
`minibatches` optimizer steps on it by `OnlineMethod.loss`. The KL to the reference stands in the reward, nowhere else:
of the KL terms in use it alone has the gradient of the KL of whole answers (docs/methods.md).

As for pairs, importing this or a method does not import torch, and methods do not import each other.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import Field

from epsilon_dpo.methods.interface import Logps, Method, MethodConfig, PairLoss, log_sigmoid

if TYPE_CHECKING:
    from torch import Tensor

Count = Annotated[int, Field(ge=1)]


class OnlineConfig(MethodConfig):
    """What every online run states: all that it draws, so that the block `sample` touches no training."""

    beta: Annotated[float, Field(gt=0.0)]  # reward units per nat of KL to the reference
    k: Count  # answers to each prompt
    prompts_per_step: Count  # different prompts of a generation
    steps: Count  # generations
    max_new_tokens: Count  # of an answer; the temperature is 1
    truncation_penalty: Annotated[float, Field(ge=0.0)] = 0.0  # taken off the score of an answer that was cut


O = TypeVar("O", bound=OnlineConfig)  # noqa: E741  # as N of interface.py


@dataclass(frozen=True)
class Answers:
    """The n answers of a generation, the k of a prompt side by side; without gradient, in float64, on the CPU.

    Attributes:
        scores: what the scorer says of each, in its own units, [n].
        policy: log pi(y_t), [n, T]; T is the longest answer, and what lies beyond one's own end is 0.
        reference: log rho(y_t), [n, T].
        mask: true on an answer's tokens, of which there is at least one (the stop token is one), [n, T].
        ended: whether it ended with the stop token, and not by its length, [n].
        values: V of the state before each token, [n, T]; if `needs_values`.
    """

    scores: "Tensor"
    policy: "Tensor"
    reference: "Tensor"
    mask: "Tensor"
    ended: "Tensor"
    values: "Tensor | None" = None

    @property
    def logratios(self) -> "Tensor":
        """log pi(y_t) - log rho(y_t), [n, T]; 0 beyond the end."""
        return self.policy - self.reference


@dataclass(frozen=True)
class Targets:
    """What a generation says its answers should become; rows as those of `Answers`, float64 on the CPU.

    Attributes:
        advantages: [n] of whole answers, or [n, T] of tokens.
        returns: what the values should be, [n, T]; if `needs_values`.
        metrics: further values per answer, [n], under the names they are logged by.
    """

    advantages: "Tensor"
    returns: "Tensor | None" = None
    metrics: "dict[str, Tensor]" = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """A micro-batch of B answers in an optimizer step; only `policy` and `values` carry a gradient.

    `old_policy`, `old_values`, `advantages`, `returns` and `mask` are rows of Answers and Targets, of when the answers
    were drawn.
    """

    policy: "Tensor"  # [B, T]
    old_policy: "Tensor"
    mask: "Tensor"
    advantages: "Tensor"
    values: "Tensor | None" = None
    old_values: "Tensor | None" = None
    returns: "Tensor | None" = None


@dataclass(frozen=True)
class UpdateLoss:
    """What a method makes of a micro-batch, per unit: an answer or a token, as the method's loss is a mean over.

    Attributes:
        losses: [U], with gradient; their mean over all units of the optimizer step is what is minimised.
        metrics: [U] each, without gradient.
    """

    losses: "Tensor"
    metrics: "dict[str, Tensor]" = field(default_factory=dict)


class OnlineMethod(ABC, Generic[O]):
    """One online method with its config and its state.

    Class attributes:
        Config: the type of the run's entry in params.yaml.
        needs_reference: the frozen SFT model is always needed, for the KL in the reward.
        needs_values: whether a value of each state is learned beside the policy.
    """

    Config: ClassVar[type[OnlineConfig]]
    needs_reference: ClassVar[bool] = True
    needs_values: ClassVar[bool] = False

    def __init__(self, config: O) -> None:
        self.config = config
        self.beta = float(config.beta)  # the present KL penalty

    @property
    @abstractmethod
    def passes(self) -> int:
        """How often the answers of a generation are gone through."""

    @property
    def minibatches(self) -> int:
        """Optimizer steps of a pass, each on its share of the answers."""
        return 1

    @property
    def updates(self) -> int:
        """Optimizer steps of a generation."""
        return self.passes * self.minibatches

    @abstractmethod
    def advantages(self, answers: Answers) -> Targets:
        """What a generation says of its answers: a pure function of it, the config and the present state."""

    @abstractmethod
    def loss(self, update: Update) -> UpdateLoss:
        """The loss of a micro-batch: a pure function of its values, the config and the present state."""

    @abstractmethod
    def units(self, tokens: "Tensor") -> "Tensor":
        """How many units of the loss answers of `tokens` [n] tokens have, [n]."""

    def on_pairs(self) -> Method[OnlineConfig]:
        """What evaluates the policy on given pairs, as every other run's is."""
        return OnPairs(self)

    def after_step(self, step: int, means: Mapping[str, float]) -> dict[str, float]:
        """Move the state on after generation `step` (the first is 1).

        Args:
            means: mean over its answers of whatever is logged of them, such as `kl/rev`.

        Returns:
            values of the state to log, as they were in this generation.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON values; saved in checkpoints."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        if state:
            raise ValueError(f"{type(self).__name__} has no state, but the checkpoint holds {sorted(state)}")


def penalised_scores(answers: Answers, penalty: float) -> "Tensor":
    """The scores, less `penalty` for each answer that did not end by itself, [n]."""
    return answers.scores - penalty * (~answers.ended).to(answers.scores)


def spread_of(advantages: "Tensor", count: int) -> "dict[str, Tensor]":
    """The deviation of all advantages of a generation, before any normalising, as a metric of its `count` answers."""
    return {"advantage_std": advantages.std(correction=0).expand(count)}


class OnPairs(Method[OnlineConfig]):
    """An online policy on given pairs. Under a KL penalty beta the reward that a policy is optimal for is
    beta * log-ratio plus a constant per prompt: so these are its implicit rewards, those of DPO at the present beta of
    `online`, and the loss is DPO's, which nobody minimised here."""

    def __init__(self, online: "OnlineMethod[Any]") -> None:
        super().__init__(online.config)
        self.online = online

    def loss(self, chosen: Logps, rejected: Logps) -> PairLoss:
        beta = self.online.beta
        return PairLoss(
            losses=-log_sigmoid(beta * (chosen.logratios - rejected.logratios)),
            chosen_rewards=beta * chosen.logratios.detach(),
            rejected_rewards=beta * rejected.logratios.detach(),
        )


AnyMethod = Method[Any] | OnlineMethod[Any]
