"""Preference pairs drawn from the synthetic world (data/generated/truth.py): nothing but the seed decides them.

The shares of the parts were chosen so that SFT on the chosen answers learns the facts but stays rude, vague or
repetitive often enough that alignment has something to do; the label is noisy (a Bradley-Terry draw), as people's
labels are.
"""

import math
import random
from collections.abc import Sequence

from epsilon_dpo.data.generated.truth import CLOSERS, POLITE, PROMPTS, QUESTIONS, RUDE, TOPICS, VAGUE, true_reward
from epsilon_dpo.data.sources.dataset import Dataset, Row
from epsilon_dpo.data.sources.params import SyntheticSource
from epsilon_dpo.pipeline.observability.errors import UserError

OPENER_SHARES = {"polite": 0.30, "none": 0.35, "rude": 0.35}
BODY_SHARES = {"fact": 0.40, "vague": 0.25, "false": 0.20, "fact twice": 0.15}
CLOSER_SHARE = 0.35


def read_synthetic(source: SyntheticSource, seed: int) -> Dataset:
    """`train_pairs` pairs over the training questions, one pair for each held-out question.

    Raises:
        UserError: `eval_share` leaves a part empty, or a topic without a training question.
    """
    train_prompts, eval_prompts = split_prompts(source.eval_share, seed)
    rng = random.Random(f"{seed}/train")  # one generator per part: the length of one does not change the other
    train = [_pair(rng, rng.choice(train_prompts), source.label_temperature) for _ in range(source.train_pairs)]
    rng = random.Random(f"{seed}/eval")
    held_out = [_pair(rng, prompt, source.label_temperature) for prompt in eval_prompts]
    facts = {
        "source": "synthetic",
        "seed": seed,
        "files": {},
        "true_reward": True,
        "prompts": {"train": len(train_prompts), "eval": len(eval_prompts)},
        "labels_agree_with_true_reward": {"train": label_agreement(train), "eval": label_agreement(held_out)},
    }
    return Dataset(_numbered(train, "train"), _numbered(held_out, "eval"), facts)


def split_prompts(eval_share: float, seed: int) -> tuple[list[str], list[str]]:
    """Training and held-out prompts; topics take turns in giving one up, so that each keeps some for training."""
    rng = random.Random(f"{seed}/split")
    by_topic = [[question.format(topic=topic) for question in QUESTIONS] for topic in TOPICS]
    for prompts in by_topic:
        rng.shuffle(prompts)
    rng.shuffle(by_topic)
    in_turn = [prompts[turn] for turn in range(len(QUESTIONS)) for prompts in by_topic]
    held_out = round(eval_share * len(in_turn))
    if not 1 <= held_out <= len(in_turn) - len(TOPICS):
        raise UserError(
            f"params.yaml: fetch.eval_share = {eval_share} holds out {held_out} of {len(PROMPTS)} prompts; choose it "
            f"so that at least one is held out and each of the {len(TOPICS)} topics keeps one for training."
        )
    return in_turn[held_out:], in_turn[:held_out]


def label_agreement(pairs: Sequence[Row]) -> float:
    """Share of the pairs of unequal true reward whose chosen answer is the better one (0.0 if there is none)."""
    margins = [_reward(pair["chosen"]) - _reward(pair["rejected"]) for pair in pairs]
    decided = [margin for margin in margins if margin != 0.0]
    return round(sum(margin > 0.0 for margin in decided) / max(len(decided), 1), 4)


def _pair(rng: random.Random, prompt: str, temperature: float) -> Row:
    """Two different answers to `prompt`, labelled by a Bradley-Terry draw on their true rewards."""
    first, second = _answer(rng, PROMPTS[prompt]), _answer(rng, PROMPTS[prompt])
    while second == first:
        second = _answer(rng, PROMPTS[prompt])
    margin = true_reward(prompt, first) - true_reward(prompt, second)
    chosen, rejected = (first, second) if rng.random() < _preference(margin, temperature) else (second, first)
    return {"chosen": _dialogue(prompt, chosen), "rejected": _dialogue(prompt, rejected)}


def _preference(margin: float, temperature: float) -> float:
    """Probability that the first answer is labelled the better one: σ(margin / temperature); a step at 0."""
    if temperature == 0.0 or abs(margin) > 700.0 * temperature:  # e^x overflows beyond
        return 0.5 if margin == 0.0 else float(margin > 0.0)
    return 1.0 / (1.0 + math.exp(-margin / temperature))


def _answer(rng: random.Random, topic: str) -> str:
    """Opener, body and closer, each drawn on its own."""
    fact, false_claim = TOPICS[topic]
    opener = {"polite": rng.choice(POLITE), "none": "", "rude": rng.choice(RUDE)}[_draw(rng, OPENER_SHARES)]
    bodies = {"fact": fact, "vague": rng.choice(VAGUE), "false": false_claim, "fact twice": f"{fact} {fact}"}
    body = bodies[_draw(rng, BODY_SHARES)]
    closer = rng.choice(CLOSERS) if rng.random() < CLOSER_SHARE else ""
    return " ".join(part for part in (opener, body, closer) if part)


def _draw(rng: random.Random, shares: dict[str, float]) -> str:
    return rng.choices(list(shares), weights=list(shares.values()))[0]


def _dialogue(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _reward(dialogue: list[dict[str, str]]) -> float:
    return true_reward(dialogue[0]["content"], dialogue[1]["content"])


def _numbered(rows: list[Row], split: str) -> list[Row]:
    return [{"id": f"synthetic/{split}/{number}", **row} for number, row in enumerate(rows)]
