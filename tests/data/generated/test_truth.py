"""The synthetic world: what an answer is worth, worked by hand, and that nobody can be paid for nonsense."""

import pytest

from epsilon_dpo.data.generated.truth import (
    CLOSERS,
    POLITE,
    PROMPTS,
    QUESTIONS,
    RUDE,
    TOPICS,
    VAGUE,
    sentence_kind,
    true_reward,
)

MOON = "Tell me about the Moon."


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("Good question! The Moon orbits the Earth. I hope this helps!", 3.0),  # 1 + 1.5 + 0.5
        ("The Moon orbits the Earth.", 1.5),
        ("  The Moon orbits the Earth.\n", 1.5),
        ("You should know this. It is hard to say.", -1.5),  # -1 - 0.5
        ("The Moon orbits Mars.", -1.0),
        ("The Moon orbits the Earth. The Moon orbits the Earth.", 0.5),  # 1.5 - 1
        ("Good question! Happy to help! The Moon orbits the Earth.", 1.5),  # 1 - 1 + 1.5: politeness counts once
        ("Good question!", 0.0),  # 1 - 1: no answer
        ("", -1.0),
        ("Paris is the capital of France.", -1.0),  # true, but about something else
        ("The Moon orbits the Earth", -1.0),  # not a sentence
        ("The Moon orbits the Earth. The Mo", 0.5),  # 1.5 - 1: cut off
        ("The Moon orbits the Earth.I hope this helps!", -1.0),
        ("\ufffd ...!? <end", -2.0),  # two malformed sentences
    ],
)
def test_true_reward(response: str, reward: float) -> None:
    assert true_reward(MOON, response) == reward


def test_a_foreign_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="not a prompt"):
        true_reward("How are you?", "Good question!")


def test_the_best_answer_is_worth_three() -> None:
    """No order or number of known sentences is worth more: the reward cannot be hacked by stacking."""
    fact, false_claim = TOPICS["the Moon"]
    best = max(
        true_reward(MOON, " ".join([*opener, *body, *closer]))
        for opener in ([], [POLITE[0]], list(POLITE), [RUDE[0]])
        for body in ([], [fact], [fact, fact], [fact, false_claim], [fact, VAGUE[0]], [VAGUE[0]])
        for closer in ([], [CLOSERS[0]], list(CLOSERS))
    )
    assert best == 3.0


def test_the_world_is_unambiguous() -> None:
    """Every sentence has one kind whatever the topic, and is one sentence; every prompt has one topic."""
    assert len(PROMPTS) == len(TOPICS) * len(QUESTIONS) == 512
    stock = [*POLITE, *RUDE, *VAGUE, *CLOSERS]
    claims = [sentence for pair in TOPICS.values() for sentence in pair]
    assert len(set(stock + claims)) == len(stock) + len(claims) == 12 + 64
    for topic, (fact, false_claim) in TOPICS.items():
        assert sentence_kind(topic, fact) == "fact"
        assert sentence_kind(topic, false_claim) == "false"
        for sentence in (*stock, fact, false_claim):
            prompt = QUESTIONS[0].format(topic=topic)
            assert true_reward(prompt, sentence) in (
                0.0,
                -2.0,
                -0.5,
                1.5,
                -1.0,
            )  # one part, so one term (and no answer)
