"""RLOO (Ahmadian et al. 2024, arXiv 2402.14740): REINFORCE on whole answers, each against the prompt's other answers.

The reward of an answer is its score less beta times its log-ratio to the reference, at the time of drawing; its
baseline is the mean reward of the k - 1 others, which costs no bias and no second network. `iterations` above 1 goes
through the same answers again, with the clipped ratio of PPO on the log-prob of the whole answer, as TRL's RLOOTrainer.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

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


class RLOOConfig(OnlineConfig):
    k: Annotated[int, Field(ge=2)]  # the baseline of an answer is made of the others
    iterations: Count = 1  # optimizer steps on the same answers
    clip: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2  # of the ratio to the policy that drew; idle with 1 iteration
    normalize_advantages: bool = False  # to mean 0 and deviation 1 over the generation


def leave_one_out(rewards: "Tensor", k: int) -> "Tensor":
    """Each reward less the mean of the other k - 1 of its prompt; both [n], the k of a prompt side by side."""
    groups = rewards.reshape(-1, k)
    above = groups[:, :, None] - groups[:, None, :]  # by differences: 0 to the last bit where all are equal
    return (above.sum(2) / (k - 1)).reshape(-1)


class RLOO(OnlineMethod[RLOOConfig]):
    Config = RLOOConfig

    @property
    def passes(self) -> int:
        return self.config.iterations

    def advantages(self, answers: Answers) -> Targets:
        config = self.config
        rewards = penalised_scores(answers, config.truncation_penalty) - config.beta * answers.logratios.sum(1)
        advantages = leave_one_out(rewards, config.k)
        spread = spread_of(advantages, len(rewards))
        if config.normalize_advantages:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-4)
        return Targets(advantages, metrics=spread)

    def loss(self, update: Update) -> UpdateLoss:
        clip, advantages = self.config.clip, update.advantages
        changes = ((update.policy - update.old_policy) * update.mask).sum(1)  # of the log-prob of the whole answer
        ratio = changes.exp()
        plain, clipped = ratio * advantages, ratio.clamp(1.0 - clip, 1.0 + clip) * advantages
        return UpdateLoss(-plain.minimum(clipped), {"clip_share": (clipped < plain).to(plain).detach()})

    def units(self, tokens: "Tensor") -> "Tensor":
        return tokens.new_ones(tokens.shape)


METHOD = RLOO
