"""Which prompts are one, whatever white space a file has around a turn."""

import json

import pytest

from epsilon_dpo.data.prompts.prompt_ids import prompt_id

QUESTION, ANSWER = "Say one sentence about gold.", "Gold is heavy."


def prompt(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


@pytest.mark.parametrize("around", ["{}\n", " {}", "\u3000{}\r\n\t"])
def test_white_space_around_a_turn_makes_no_other_prompt(around: str) -> None:
    assert prompt_id(prompt(around.format(QUESTION))) == prompt_id(prompt(QUESTION))
    several = QUESTION, ANSWER, "Shorter."
    for place in range(3):
        spaced = [around.format(text) if place == at else text for at, text in enumerate(several)]
        assert prompt_id(prompt(*spaced)) == prompt_id(prompt(*several))


def test_any_other_difference_makes_another_prompt() -> None:
    others = [QUESTION.replace(" ", "  ", 1), QUESTION.lower(), QUESTION[:-1]]
    found = [prompt(QUESTION), *map(prompt, others), prompt(QUESTION, ANSWER, "Why?")]
    found += [[{"role": "system", "content": QUESTION}], [{"role": "system", "content": "Be brief."}, *found[0]]]
    assert len(set(map(prompt_id, found))) == len(found)


def test_the_id_of_a_prompt_stays_what_it_was() -> None:
    """Which prompts are sampled is decided by it, and so are recorded results."""
    assert prompt_id(prompt(QUESTION)) == "1f8e449e416ab733"
    assert prompt_id(json.loads(json.dumps(prompt(QUESTION), sort_keys=True))) == "1f8e449e416ab733"
