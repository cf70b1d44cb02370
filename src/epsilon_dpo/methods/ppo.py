"""PPO (Schulman et al. 2017, arXiv 1707.06347) as in RLHF (Ziegler et al. 2019, arXiv 1909.08593): token by token.

Each token costs beta times its log-ratio to the reference, the last one earns the answer's score. A value of each
state is learned beside the policy (a linear layer on its last hidden states); generalised advantage estimation (arXiv
1506.02438) makes of both how much better a token did than was expected, and the clipped ratio keeps the policy near the
one that drew the answers while `epochs` are gone through. With `adaptive_kl` beta follows the KL per answer.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from epsilon_dpo.methods.online import (
    Answers,
    Count,
    OnlineConfig,
    OnlineMethod,
    Targets,
    Update,
    UpdateLoss,
    penalised_scores,
    spread_of,
)

if TYPE_CHECKING:
    from torch import Tensor

GAIN, MOST = 0.1, 0.2  # of the adaptive beta: its step per relative error, which is clipped


class PPOConfig(OnlineConfig):
    epochs: Count = 4  # passes over the answers of a generation
    minibatches: Count = 1  # optimizer steps of a pass
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    lam: Annotated[float, Field(ge=0.0, le=1.0)] = 0.95
    clip: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2  # of the ratio to the policy that drew
    vf_coef: Annotated[float, Field(ge=0.0)] = 0.1
    value_clip: Annotated[float, Field(gt=0.0)] = 0.2  # how far a value may move from that at the time of drawing
    whiten: bool = True  # advantages to mean 0 and deviation 1 over all tokens of the generation
    adaptive_kl: Annotated[float, Field(gt=0.0)] | None = None  # the KL per answer, nats, that beta is moved towards

    @model_validator(mode="after")
    def _minibatches_share_the_answers(self) -> Self:
        if self.prompts_per_step * self.k % self.minibatches:
            raise ValueError(
                f"{self.minibatches} minibatches cannot share {self.prompts_per_step} prompts x {self.k} answers "
                "evenly; let minibatches divide prompts_per_step * k"
            )
        return self


def token_rewards(scores: "Tensor", logratios: "Tensor", mask: "Tensor", beta: float) -> "Tensor":
    """-beta * log-ratio of each token, and the score at each answer's last, [n, T]; 0 beyond the end."""
    rewards = -beta * logratios * mask
    last = mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None])


def advantages_and_returns(
    rewards: "Tensor", values: "Tensor", mask: "Tensor", gamma: float, lam: float
) -> tuple["Tensor", "Tensor"]:
    """Generalised advantage estimation, [n, T] each; the value after the last token is 0."""
    import torch

    values = values * mask
    after = torch.cat([values[:, 1:], values.new_zeros(len(values), 1)], dim=1)
    deltas = (rewards + gamma * after - values) * mask
    found, following = torch.zeros_like(deltas), deltas.new_zeros(len(deltas))
    for t in reversed(range(deltas.shape[1])):
        following = deltas[:, t] + gamma * lam * following
        found[:, t] = following
    return found, found + values


def whitened(values: "Tensor", mask: "Tensor") -> "Tensor":
    """Mean 0 and unbiased variance 1 over all true places of `mask`, 0 elsewhere; 0 everywhere if all are equal."""
    kept = values[mask]
    variance = kept.var() if len(kept) > 1 else kept.new_zeros(())
    return (values - kept.mean()) * (variance + 1e-8).rsqrt() * mask  # 1e-8: as `whiten` of earlier TRLs


def adapted(beta: float, kl: float, target: float) -> float:
    """The next beta (Ziegler et al., 2.2): up where the KL is above `target`, by at most GAIN * MOST of itself."""
    return beta * (1.0 + GAIN * min(max(kl / target - 1.0, -MOST), MOST))


class PPO(OnlineMethod[PPOConfig]):
    Config = PPOConfig
    needs_values = True

    @property
    def passes(self) -> int:
        return self.config.epochs

    @property
    def minibatches(self) -> int:
        return self.config.minibatches

    def advantages(self, answers: Answers) -> Targets:
        assert answers.values is not None
        config, mask = self.config, answers.mask
        scores = penalised_scores(answers, config.truncation_penalty)
        rewards = token_rewards(scores, answers.logratios, mask, self.beta)
        advantages, returns = advantages_and_returns(rewards, answers.values, mask, config.gamma, config.lam)
        spread = spread_of(advantages[mask], len(scores))
        return Targets(whitened(advantages, mask) if config.whiten else advantages, returns, spread)

    def loss(self, update: Update) -> UpdateLoss:
        assert update.values is not None and update.old_values is not None and update.returns is not None
        config, mask = self.config, update.mask
        advantages, returns, old = update.advantages[mask], update.returns[mask], update.old_values[mask]
        ratio = (update.policy[mask] - update.old_policy[mask]).exp()
        plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1.0 - config.clip, 1.0 + config.clip)
        policy = plain.maximum(clipped)
        values = update.values[mask]
        near = old + (values - old).clamp(-config.value_clip, config.value_clip)
        value = 0.5 * (values - returns).square().maximum((near - returns).square())
        metrics = {"policy_loss": policy, "value_loss": value, "clip_share": (clipped > plain).to(plain)}
        return UpdateLoss(policy + config.vf_coef * value, {name: found.detach() for name, found in metrics.items()})

    def units(self, tokens: "Tensor") -> "Tensor":
        return tokens

    def after_step(self, step: int, means: Mapping[str, float]) -> dict[str, float]:
        if self.config.adaptive_kl is None:
            return {}
        used = self.beta
        self.beta = adapted(used, means["kl/rev"], self.config.adaptive_kl)
        return {"ppo/beta": used}

    def state_dict(self) -> dict[str, Any]:
        return {} if self.config.adaptive_kl is None else {"beta": self.beta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.config.adaptive_kl is None:
            super().load_state_dict(state)
        else:
            self.beta = state["beta"]


METHOD = PPO
