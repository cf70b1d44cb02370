"""Mismatched pairs: whose answers meet, how often, and in which order."""

from collections import Counter
from itertools import pairwise

import pytest

from epsilon_dpo.judging.judges.interface import Question
from epsilon_dpo.judging.judges.source_text import pair_text
from epsilon_dpo.judging.making.training_examples import Example, draw_examples
from epsilon_dpo.pipeline.observability.errors import UserError


def pair(prompt: str, chosen: str) -> Question:
    return Question([{"role": "user", "content": prompt}], chosen, "no idea")


PAIRS = [pair(f"question {i // 2}", f"answer {i % 5}") for i in range(40)]  # two rows a prompt, eight an answer


def mismatched(examples: list[Example]) -> list[tuple[int, int]]:
    return [(example.row, example.other) for example in examples if example.other is not None]


def test_the_same_arguments_give_the_same_examples_and_another_seed_others() -> None:
    first = draw_examples(PAIRS, 200, 0.2, 0.3, 7)
    assert len(first) == 200 and first == draw_examples(PAIRS, 200, 0.2, 0.3, 7)
    assert first != draw_examples(PAIRS, 200, 0.2, 0.3, 8)


def test_mismatched_answers_are_other_answers_to_other_prompts_in_mirrored_couples() -> None:
    found = mismatched(draw_examples(PAIRS, 1000, 0.5, 0.5, 0))
    for row, other in found:
        assert PAIRS[row].prompt != PAIRS[other].prompt and PAIRS[row].a != PAIRS[other].a
    assert Counter(found) == Counter((other, row) for row, other in found)
    row, other = found[0]
    question = Example(row, other, better_first=False).question(PAIRS)
    assert question == Question(PAIRS[row].prompt, PAIRS[row].a, PAIRS[other].a)


def test_each_epoch_draws_others() -> None:
    found = mismatched(draw_examples(PAIRS, 400, 0.99, 0.0, 0))
    met = {row: {other for mine, other in found if mine == row} for row, _ in found}
    assert min(len(others) for others in met.values()) > 3


def test_the_shares_are_those_asked_for_and_the_better_answer_stands_in_both_places() -> None:
    examples = draw_examples(PAIRS, 10_000, 0.3, 0.2, 0)
    assert all(example.other is not None for example in examples[:3000])
    rest = examples[3000:]
    assert sum(example.other is not None for example in rest) / len(rest) == pytest.approx(0.2, abs=0.02)
    assert sum(example.better_first for example in examples) / 10_000 == pytest.approx(0.5, abs=0.02)


def test_without_mismatched_pairs_every_epoch_has_every_labelled_pair_once() -> None:
    examples = draw_examples(PAIRS, 120, 0.0, 0.0, 0)
    epochs = [[example.row for example in examples[start : start + 40]] for start in (0, 40, 80)]
    assert all(sorted(rows) == list(range(40)) for rows in epochs)
    assert all(one != other for one, other in pairwise(epochs))
    assert examples[0].question(PAIRS) == PAIRS[examples[0].row]


def test_in_a_dialogue_the_earlier_answers_stay() -> None:
    """Only the last answer is another's: a judge must not tell them apart by the turns before."""
    dialogue = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi there"},
        {"role": "user", "content": "what is gold"},
    ]
    pairs = [Question(dialogue, "a metal", "no idea"), pair("who makes honey", "bees")]
    text = pair_text(*Example(0, 1, better_first=True).question(pairs))
    assert text.a == "<Response 1>: hi there\n<Response 2>: a metal"
    assert text.b == "<Response 1>: hi there\n<Response 2>: bees"


@pytest.mark.parametrize(
    "pairs", [[pair("one", "a"), pair("one", "b")], [pair("one", "a"), pair("two", "a ")]], ids=["prompt", "answer"]
)
def test_where_nothing_can_be_mismatched_it_is_said(pairs: list[Question]) -> None:
    assert len(draw_examples(pairs, 4, 0.0, 0.0, 0)) == 4
    with pytest.raises(UserError, match=r"same prompt or the same chosen answer.*judge.mismatched_share to 0.0"):
        draw_examples(pairs, 4, 0.0, 0.5, 0)
