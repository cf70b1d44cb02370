"""What the tests of online methods share: made-up answers, and a world of three answers whose best policy is known.

rho = (.5, .3, .2), r = (0, 1, 2): the best policy under E r - beta KL is rho exp(r / beta) / Z.
"""

import torch
from torch import Tensor

from epsilon_dpo.methods.online import Answers, OnlineMethod, Update

RHO, REWARDS = [0.5, 0.3, 0.2], [0.0, 1.0, 2.0]
OPTIMA = {
    1.0: [0.1790000206, 0.2919435019, 0.5290564775],
    0.5: [0.0366667118, 0.1625594345, 0.8007738537],
}


def answers_of(scores: list[float], changes: list[float], ended: list[bool] | None = None) -> Answers:
    """Answers of one token, whose log-ratios to the reference are `changes`."""
    policy = torch.tensor(changes, dtype=torch.float64)[:, None]
    return Answers(
        scores=torch.tensor(scores, dtype=torch.float64),
        policy=policy,
        reference=torch.zeros_like(policy),
        mask=torch.ones_like(policy, dtype=torch.bool),
        ended=torch.tensor([True] * len(scores) if ended is None else ended),
        values=torch.zeros_like(policy),
    )


def tabular_optimum(method: OnlineMethod, generations: int) -> list[float]:
    """The policy that `method` makes of a softmax over three answers of one token, from rho, at a falling rate."""
    generator = torch.Generator().manual_seed(3)
    reference, rewards = torch.tensor(RHO, dtype=torch.float64).log(), torch.tensor(REWARDS, dtype=torch.float64)
    logits, value = reference.clone().requires_grad_(), torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits, value], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, generations * method.updates)
    count = method.config.prompts_per_step * method.config.k
    mean = torch.zeros(3, dtype=torch.float64)
    for generation in range(generations):
        with torch.no_grad():
            drawn = torch.multinomial(logits.softmax(0), count, replacement=True, generator=generator)
            mask = torch.ones(count, 1, dtype=torch.bool)
            old, old_values = logits.log_softmax(0)[drawn][:, None], value.expand(count, 1).clone()
            answers = Answers(rewards[drawn], old, reference[drawn][:, None], mask, mask[:, 0], old_values)
            targets = method.advantages(answers)
        for _ in range(method.updates):
            now = logits.log_softmax(0)[drawn][:, None]
            update = Update(now, old, mask, targets.advantages, value.expand(count, 1), old_values, targets.returns)
            optimizer.zero_grad()
            mean_of(method.loss(update).losses).backward()
            optimizer.step()
            schedule.step()
        if generation >= generations // 2:
            mean += logits.detach().softmax(0) / (generations - generations // 2)
    return mean.tolist()


def mean_of(losses: Tensor) -> Tensor:
    return losses.mean()
