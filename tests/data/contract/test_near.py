"""Near-duplicates: the search against a comparison of all prompts with all, and what a person would call one."""

import heapq
import random
from collections.abc import Iterable, Iterator

import pytest

from epsilon_dpo.data.contract.near import NEAR, NearPrompts, _trigrams

Turns = list[dict[str, str]]


def asked(text: str) -> Turns:
    return [{"role": "user", "content": text}]


def near(text: str, *others: str) -> tuple[str, float]:
    index = NearPrompts()
    for place, other in enumerate(others):
        index.add(f"eval/{place}", asked(other))
    return index.near(asked(text))


LONG = "Write a short letter to my landlord about the broken heating in the kitchen of our flat please"


@pytest.mark.parametrize(
    ("text", "other", "share"),
    [
        ("What is the capital of France?", "what is the capital of france", 1.0),
        ("Hello there!", "HELLO, there", 1.0),
        (LONG, LONG + " today", 16 / 17),
        (LONG, "Please " + LONG.lower(), 16 / 17),
        ("写一封信给我的房东说厨房暖气坏了", "写一封信给我的房东，说厨房暖气坏了！", 1.0),
    ],
)
def test_another_wording_of_the_same_prompt_is_near(text: str, other: str, share: float) -> None:
    assert near(text, "Something else entirely, of no use.", other) == ("eval/1", pytest.approx(share))


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("What is the capital of France?", "What is the capital of Spain?"),
        ("Tell me about whales.", "Tell me about sharks."),
        ("Hello there", "Hello you"),
        ("???", "!!!"),
        ("", ""),
        ("写一封信给我的房东", "写一首诗给我的母亲"),
    ],
)
def test_another_prompt_of_the_same_form_is_not(text: str, other: str) -> None:
    assert near(text, other) == ("", 0.0)


def test_nothing_is_near_where_there_is_nothing() -> None:
    assert NearPrompts().near(asked(LONG)) == ("", 0.0)


def test_of_several_an_equal_one_is_named_else_the_first() -> None:
    assert near(LONG, LONG + " today or tomorrow", LONG + " now", LONG.upper()) == ("eval/2", 1.0)
    assert near(LONG, LONG + " today or tomorrow", LONG + " now") == ("eval/0", 16 / 19)


def test_a_system_turn_that_all_prompts_share_makes_none_of_them_near() -> None:
    index = NearPrompts()
    system = [{"role": "system", "content": "You are a helpful, honest and harmless assistant. " * 3}]
    index.add("eval/0", system + asked("What is the capital of France?"))
    assert index.near(system + asked("Who wrote this letter to my landlord?")) == ("", 0.0)


def changed(prompts: list[list[str]], words: list[str], draw: random.Random) -> list[list[str]]:
    """400 times one of `prompts` with a few words put in, left out or changed."""
    found = []
    for _ in range(400):
        prompt = list(draw.choice(prompts))
        for _ in range(draw.randint(0, 3)):
            at = draw.randrange(len(prompt) + 1)
            prompt[at : at + draw.randint(0, 1)] = [draw.choice(words)] * draw.randint(0, 1)
        found.append(prompt or ["w0"])
    return found


INSTRUCTION = [f"i{n}" for n in range(30)]


@pytest.mark.parametrize("instruction", [[], INSTRUCTION], ids=["none", "shared"])
def test_the_search_finds_what_comparing_all_with_all_finds(instruction: list[str]) -> None:
    """Prompts of 1 to 40 words, after an instruction or none, and others made of them."""
    draw = random.Random(1)
    words = [f"w{n}" for n in range(60)]
    prompts = [[*instruction, *(draw.choice(words) for _ in range(draw.randint(1, 40)))] for _ in range(200)]
    texts = [" ".join(prompt) for prompt in prompts + changed(prompts, words, draw)]
    index, found = NearPrompts(), 0
    for place, text in enumerate(texts[:300]):
        index.add(str(place), asked(text))
    sets = [_trigrams(asked(text)) for text in texts]
    for place in range(300, 600):
        shares = [len(sets[place] & other) / len(sets[place] | other) for other in sets[:300]]
        close = [(str(other), share) for other, share in enumerate(shares) if share >= NEAR]
        equal = [match for match in close if match[1] == 1.0]
        assert index.near(asked(texts[place])) == [*equal, *close, ("", 0.0)][0], texts[place]
        found += bool(close)
    assert 50 < found < 290


@pytest.mark.parametrize(("words", "near"), [(3, True), (12, False)])
def test_an_instruction_that_all_prompts_share_makes_no_search_longer(
    words: int, near: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts that it makes near are found at once, and the others are no candidates at all."""
    looked_at = []

    def merge(*parts: Iterable[int]) -> Iterator[int]:
        for place in heapq.merge(*parts):
            looked_at.append(place)
            yield place

    monkeypatch.setattr("epsilon_dpo.data.contract.near.merge", merge)
    draw, index = random.Random(2), NearPrompts()
    for place in range(1000):
        prompt = [*INSTRUCTION, *(f"w{draw.randrange(9999)}" for _ in range(words))]
        index.add(str(place), asked(" ".join(prompt)))
    for number in range(50):
        own = " ".join([*INSTRUCTION, *(f"own{number}" for _ in range(words))])
        assert index.near(asked(own))[0] == ("0" if near else "")
    assert len(looked_at) == (50 if near else 0)
