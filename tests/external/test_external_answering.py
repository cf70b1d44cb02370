"""Dialogues with a small policy: context, temperature, seeds, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from epsilon_dpo.data.tokens.tokenisation import prompt_ids
from epsilon_dpo.data.tokens.tokenizer import load_tokenizer
from epsilon_dpo.external.answers import answering
from epsilon_dpo.external.answers.answering import answer
from epsilon_dpo.external.answers.params import Decoding, DecodingByCategory
from epsilon_dpo.external.benchmarks.questions import Question, read_questions
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.sampling.decoding.params import Stop

GREEDY = Decoding(temperature=0.0, max_new_tokens=6, batch_size=3)
WARM = Decoding(temperature=1.0, max_new_tokens=6, batch_size=3)
NO_STOP = Stop(tokens=[], strings=[])


def by_category(**temperature: float) -> DecodingByCategory:
    return DecodingByCategory(temperature=temperature, max_new_tokens=6, batch_size=2)


@pytest.fixture
def two_turns(external: Path) -> list[Question]:
    return read_questions("mt_bench", Path("data/mt_bench"))


@pytest.fixture
def policy(sft_folder: Callable[[], Path], tiny_gemma: Callable[..., Any]) -> Path:
    """Its tokens are so close in probability that a low temperature is not yet greedy."""
    folder = sft_folder()
    tiny_gemma(initializer_range=0.1).save_pretrained(folder)
    return folder


def greedy(policy: Path, messages: list[dict[str, str]]) -> list[int]:
    """The most probable token, one by one, without this project's sampling."""
    tokenizer, model = load_tokenizer(policy), AutoModelForCausalLM.from_pretrained(policy).eval()
    ids = prompt_ids(tokenizer, messages)
    start = len(ids)
    with torch.no_grad():
        while len(ids) < start + 6 and (len(ids) == start or ids[-1] != tokenizer.eos_token_id):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]


def test_the_second_turn_answers_the_dialogue_so_far(two_turns: list[Question], policy: Path) -> None:
    for question, row in zip(two_turns, answer(policy, two_turns, GREEDY, NO_STOP, 0), strict=True):
        first, second = row["turns"]
        asked = {"role": "user", "content": question.turns[0]}
        assert row["id"] == question.id
        assert first["response_ids"] == greedy(policy, [asked])
        said = [asked, {"role": "assistant", "content": first["response"]}]
        assert second["response_ids"] == greedy(policy, [*said, {"role": "user", "content": question.turns[1]}])
        assert (first["prompt"], second["prompt"]) == tuple(question.turns)


def test_each_category_has_its_temperature(two_turns: list[Question], policy: Path) -> None:
    """Writing changes with the seed, mathematics and science, which are greedy, do not."""
    decoding = by_category(writing=1.0, math=0.0, stem=0.0)
    rows = [answer(policy, two_turns, decoding, NO_STOP, seed) for seed in range(4)]
    for place, different in enumerate((True, False, False)):
        assert (len({str(answers[place]["turns"][0]["response_ids"]) for answers in rows}) > 1) is different


def test_answers_belong_to_the_question_turn_and_seed(two_turns: list[Question], policy: Path) -> None:
    rows = answer(policy, two_turns, WARM, NO_STOP, 3)
    assert answer(policy, two_turns[::-1], WARM.model_copy(update={"batch_size": 1}), NO_STOP, 3) == rows[::-1]
    assert answer(policy, two_turns, WARM, NO_STOP, 4) != rows
    twin = Question("82", two_turns[0].turns, two_turns[0].row)
    assert answer(policy, [twin], WARM, NO_STOP, 3)[0]["turns"] != rows[0]["turns"]


def test_the_turns_of_a_dialogue_are_drawn_independently(
    two_turns: list[Question], policy: Path, tiny_gemma: Callable[..., Any]
) -> None:
    """Of a policy for which all tokens are as likely, whatever was said before: the noise alone makes its answers."""
    even = tiny_gemma()
    with torch.no_grad():
        for weight in even.parameters():
            weight.zero_()
    even.save_pretrained(policy)
    for row in answer(policy, two_turns, WARM, NO_STOP, 0):
        first, second = row["turns"]
        assert first["response_ids"] != second["response_ids"]


def test_a_category_without_a_temperature_is_refused(two_turns: list[Question], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Question 141 is of the category stem, which has no temperature; add it"):
        answer(tmp_path, two_turns, by_category(writing=1.0, math=0.0), NO_STOP, 0)


def test_a_dialogue_that_outgrows_the_context_is_refused(two_turns: list[Question], policy: Path) -> None:
    long = Decoding(temperature=0.0, max_new_tokens=61, batch_size=1)
    with pytest.raises(UserError, match="max_new_tokens = 61 of the 64 positions of the model"):
        answer(policy, two_turns, long, NO_STOP, 0)


def test_an_answer_ends_at_a_stop_and_is_without_it(two_turns: list[Question], policy: Path) -> None:
    """The third token of the first answer as a stop token, and its text as a stop string."""
    tokenizer = load_tokenizer(policy)
    plain = answer(policy, two_turns, GREEDY, NO_STOP, 0)[0]["turns"][0]
    assert len(plain["response_ids"]) == 6 and plain["finish_reason"] == "length"
    (token,) = tokenizer.convert_ids_to_tokens(plain["response_ids"][2:3])
    assert plain["response_ids"].index(plain["response_ids"][2]) == 2
    for stop in (
        Stop(tokens=[token], strings=[]),
        Stop(tokens=[], strings=[tokenizer.decode(plain["response_ids"][2])]),
    ):
        turn = answer(policy, two_turns, GREEDY, stop, 0)[0]["turns"][0]
        assert (turn["response_ids"], turn["finish_reason"]) == (plain["response_ids"][:3], "stop")
        assert turn["response"] == tokenizer.decode(plain["response_ids"][:2]).strip()


def test_what_is_no_stop_is_refused(two_turns: list[Question], policy: Path) -> None:
    with pytest.raises(UserError, match=r"names '<\|end_of_text\|>', which is not one token of the model's vocabulary"):
        answer(policy, two_turns, GREEDY, Stop(tokens=["<|end_of_text|>"], strings=[]), 0)


def test_a_second_question_that_cannot_fit_is_refused_before_anything_is_sampled(
    two_turns: list[Question], policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sampled(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(answering, "sample", sampled)
    long = Question("200", ["w1", " ".join(["w2"] * 60)], two_turns[0].row)
    with pytest.raises(UserError, match="The dialogue of question 200 has"):
        answer(policy, [*two_turns, long], GREEDY, NO_STOP, 0)


def test_a_template_that_refuses_an_empty_turn_is_asked_all_the_same(two_turns: list[Question], policy: Path) -> None:
    """Mistral's since v7: also where only the length of the shortest dialogue is wanted, and after an empty answer."""
    tokenizer = load_tokenizer(policy)
    refusal = "{% for m in messages %}{% if m['content'] == '' %}{{ raise_exception('empty') }}{% endif %}{% endfor %}"
    tokenizer.chat_template = refusal + tokenizer.chat_template
    tokenizer.save_pretrained(policy)
    rows = answer(policy, two_turns[:1], GREEDY, Stop(tokens=[], strings=["w"]), 0)
    assert [turn["response"] for turn in rows[0]["turns"]] == ["", ""]
