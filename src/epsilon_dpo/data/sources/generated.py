"""Preference pairs drawn from the synthetic world (data/generated/truth.py): nothing but the seed decides them.

The shares of the parts were chosen so that SFT on the chosen answers learns the facts but stays rude, vague or
repetitive often enough that alignment has something to do; the label is noisy (a Bradley-Terry draw), as people's
labels are. noise.py turns over more of them, where that is asked for.

Held out are questions, no topic, and an answer's text depends on the topic alone: most held-out answers stand in
training, too. So held-out pairs compare policies on known facts, and say little of how they generalise.

With `answers_per_prompt` L above 2 a label is the best of L answers (Luce's choice: softmax of the rewards, which is
Bradley-Terry for L = 2) and becomes L - 1 pairs, the best against each of the others. Noise and choices are for the
training pairs: each held-out prompt keeps its one pair with a label as drawn, so that the chosen answer that policies
are compared with is the same at every level of noise.
"""

import math
import random
from collections.abc import Sequence
from itertools import accumulate

from epsilon_dpo.data.generated.truth import CLOSERS, POLITE, PROMPTS, QUESTIONS, RUDE, TOPICS, VAGUE, true_reward
from epsilon_dpo.data.sources.dataset import Dataset, Row, dialogue
from epsilon_dpo.data.sources.noise import is_noisy, mean_flip_rate, with_noise
from epsilon_dpo.data.sources.params import SyntheticSource
from epsilon_dpo.pipeline.observability.errors import UserError

OPENER_SHARES = {"polite": 0.30, "none": 0.35, "rude": 0.35}
BODY_SHARES = {"fact": 0.40, "vague": 0.25, "false": 0.20, "fact twice": 0.15}
CLOSER_SHARE = 0.35
LARGEST = 700.0  # e^x overflows a little beyond


def read_synthetic(source: SyntheticSource, seed: int) -> Dataset:
    """`train_pairs` pairs over the training questions, one pair for each held-out question.

    Raises:
        UserError: `eval_share` leaves a part empty, or a topic without a training question.
    """
    train_prompts, eval_prompts = split_prompts(source.eval_share, seed)
    rng = random.Random(f"{seed}/train")  # one generator per part: the length of one does not change the other
    answers, temperature = source.answers_per_prompt, source.label_temperature
    choices = source.train_pairs // (answers - 1)
    drawn = [_choice(rng, rng.choice(train_prompts), answers, temperature) for _ in range(choices)]
    rng = random.Random(f"{seed}/eval")
    eval_rows = _numbered([_choice(rng, prompt, 2, temperature) for prompt in eval_prompts], "eval")
    train = _numbered(drawn, "train")
    noise: dict[str, float] = {}
    if is_noisy(source):
        train = with_noise(train, source, f"{seed}/noise")
        eval_rows = [{**row, "flip_rate": 0.0, "clean": True} for row in eval_rows]
        flipped = sum(not row["clean"] for row in train) / len(train)
        noise = {"flip_rate": mean_flip_rate(source), "labels_flipped": round(flipped, 4)}  # as asked for, and as drawn
    facts = {
        "source": "synthetic",
        "seed": seed,
        "files": {},
        "true_reward": True,
        "prompts": {"train": len(train_prompts), "eval": len(eval_prompts)},
        "labels_agree_with_true_reward": {"train": label_agreement(train), "eval": label_agreement(eval_rows)},
        **noise,
    }
    return Dataset(train, eval_rows, facts)


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


def _choice(rng: random.Random, prompt: str, count: int, temperature: float) -> list[Row]:
    """`count` different answers to `prompt`, of which one is labelled the best: pairs of it and each other one."""
    answers = [_answer(rng, PROMPTS[prompt])]
    while len(answers) < count:
        other = _answer(rng, PROMPTS[prompt])
        if other not in answers:
            answers.append(other)
    chances = choice_probabilities([true_reward(prompt, answer) for answer in answers], temperature)
    drawn = rng.random()
    best = next((place for place, end in enumerate(accumulate(chances)) if drawn < end), count - 1)
    return [
        {"chosen": dialogue(prompt, answers[best]), "rejected": dialogue(prompt, other)}
        for place, other in enumerate(answers)
        if place != best
    ]


def choice_probabilities(rewards: Sequence[float], temperature: float) -> list[float]:
    """How likely each answer is labelled the best: softmax(rewards / temperature); at 0 the best ones share it.

    That is the distribution of argmax(rewards / temperature + Gumbel noise), and of two answers σ of their difference.
    """
    if temperature == 0.0:
        best = [float(reward == max(rewards)) for reward in rewards]
        return [share / sum(best) for share in best]
    return [1.0 / sum(math.exp(min((other - own) / temperature, LARGEST)) for other in rewards) for own in rewards]


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


def _reward(turns: list[dict[str, str]]) -> float:
    return true_reward(turns[0]["content"], turns[1]["content"])


def _numbered(choices: list[list[Row]], split: str) -> list[Row]:
    """The pairs of all choices; those of one with several share the beginning of their ids."""
    rows = []
    for number, pairs in enumerate(choices):
        ids = [f"synthetic/{split}/{number}" + (f"/{place}" if len(pairs) > 1 else "") for place in range(len(pairs))]
        rows += [{"id": id_, **pair} for id_, pair in zip(ids, pairs, strict=True)]
    return rows
