"""Which prompts a step answers, and with which random numbers: by seed and step alone."""

from types import SimpleNamespace

import pytest

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import write_jsonl
from epsilon_dpo.training.online.online_trainer import OnlineTrainer
from epsilon_dpo.training.online.prompts import Prompt, PromptOrder, read_prompts, seeds_of

PROMPTS = [Prompt(f"row/{number}", [number], []) for number in range(11)]


def ids(prompts):
    return [prompt.id for prompt in prompts]


def test_a_pass_asks_each_prompt_at_most_once_and_the_next_in_another_order():
    order = PromptOrder(PROMPTS, 3, seed=4)
    assert order.steps_of_a_pass == 3
    first, second = ([id_ for step in steps for id_ in ids(order.of_step(step))] for steps in (range(3), range(3, 6)))
    assert len(set(first)) == len(set(second)) == 9 and first != second
    assert ids(order.of_step(4)) == ids(PromptOrder(PROMPTS, 3, seed=4).of_step(4)), "whatever was asked before"
    assert ids(order.of_step(4)) != ids(PromptOrder(PROMPTS, 3, seed=5).of_step(4))
    assert {id_ for step in range(30) for id_ in ids(order.of_step(step))} == set(ids(PROMPTS)), "none is left out"


def test_a_step_needs_different_prompts(tmp_path):
    assert len(PromptOrder(PROMPTS, 11, seed=0).of_step(7)) == 11
    with pytest.raises(UserError, match="have 11 different prompts, fewer than a step's 12"):
        PromptOrder(PROMPTS, 12, seed=0)
    write_jsonl(tmp_path / "prompts.jsonl", [])
    with pytest.raises(UserError, match="holds no prompt, and an online run has nothing to answer"):
        read_prompts(tmp_path / "prompts.jsonl")


def test_the_minibatches_of_a_generation_are_no_function_of_the_prompts_order():
    """Of as many answers as there are prompts: from one stream both would be the same permutation, in each generation
    whose number is a pass's, the first one among them."""
    prompts = [Prompt(str(number), [number], []) for number in range(64)]
    order = PromptOrder(prompts, 16, seed=4)
    trainer = SimpleNamespace(method=SimpleNamespace(minibatches=4), args=SimpleNamespace(seed=4))
    for number in range(3):
        minibatches = [OnlineTrainer._share(trainer, number, update, 64) for update in range(4)]
        assert sorted(place for places in minibatches for place in places) == list(range(64))
        asked = [sorted(int(id_) for id_ in ids(order.of_step(4 * number + step))) for step in range(4)]
        assert not any(places == rows for places, rows in zip(minibatches, asked, strict=True))


def test_an_answers_random_numbers_are_its_own():
    """Of seed, step, prompt and number, whatever the prompts beside it; those of the evaluation are others."""
    found = seeds_of(17, 0, PROMPTS[:2], 3)
    assert found[3:] == seeds_of(17, 0, PROMPTS[1:2], 3)
    others = [
        *seeds_of(18, 0, PROMPTS[:2], 3),
        *seeds_of(17, 1, PROMPTS[:2], 3),
        *seeds_of(17, "evaluation", PROMPTS, 1),
    ]
    assert len({*found, *others}) == 6 + 6 + 6 + 11 and all(0 <= seed < 2**64 for seed in found)
