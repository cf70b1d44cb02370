"""Who is no judge, because it gives no letter, and which replies are kept, so that nothing is paid for twice."""

import json
import sqlite3
import time
from typing import Any

import pytest
from judge_server import JudgeServer
from llm_replies import CACHE, PROMPT, QUESTIONS, SETTINGS, completion, judge, replies

from epsilon_dpo.judging.judges.interface import Question
from epsilon_dpo.judging.judges.llm import LLM
from epsilon_dpo.pipeline.observability.errors import UserError


@pytest.mark.parametrize(
    "kept",
    ["not JSON", "[]", json.dumps(completion(7)), json.dumps(completion(None, finish_reason="length")),
     json.dumps(completion("A", message="A")), json.dumps(completion("", finish_reason="error"))],
)  # fmt: skip
def test_a_reply_that_an_older_version_kept_unread_is_asked_for_again(server: JudgeServer, kept: str) -> None:
    verdicts = judge(server).compare(QUESTIONS)
    with sqlite3.connect(CACHE) as opened:
        opened.execute("UPDATE answers SET reply = ? WHERE rowid = 1", (kept,))
    tries = server.tries
    assert judge(server).compare(QUESTIONS) == verdicts
    assert server.tries == tries + 1 and kept not in replies()


def test_a_judge_that_never_answers_is_no_judge(server: JudgeServer) -> None:
    """Else 50 % of the labels would be its agreement."""
    server.reply_text = "I prefer the first."
    with pytest.raises(
        UserError, match=r"none of the 10 replies of judge at .* is the letter A or B; raise judge\.max"
    ):
        judge(server).compare(QUESTIONS)
    assert all(verdict.refused for verdict in judge(server).compare(QUESTIONS[:2]))
    with pytest.raises(UserError, match="none of the 10 replies"):
        judge(server).compare(QUESTIONS)  # four of which are kept by now: six are asked, too few by themselves


def test_a_reply_behind_several_verdicts_is_one_reply(server: JudgeServer) -> None:
    """At temperature 0 all answers to a prompt are equal: four replies are too few, however many pairs they decide."""
    server.reply_text = "I prefer the first."
    verdicts = judge(server).compare(QUESTIONS[:2] * 5)
    assert server.tries == 4 and [verdict.refused for verdict in verdicts] == [True] * 10


@pytest.mark.parametrize("said", ["Let me compare the two answers", ""], ids=["reasoning", "nothing"])
def test_a_judge_that_reasons_in_its_text_is_stopped_after_the_first_replies(
    server: JudgeServer, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """512 questions in the default: it must neither be paid for all of them nor be kept as 512 ties."""
    many = [Question(PROMPT, f"because {n}", f"for {n}") for n in range(100)]
    cut = completion(said, finish_reason="length" if said else "stop", usage=None)
    tries = 0

    def reply(*_: Any) -> tuple[int, Any]:
        nonlocal tries
        tries += 1
        return 200, cut

    with monkeypatch.context() as reasoning:
        reasoning.setattr(server, "reply", reply)
        with pytest.raises(UserError, match=r"none of the 10 replies .* raise judge\.max_tokens") as refusal:
            judge(server).compare(many)
    assert (said in str(refusal.value)) and f"finish_reason {'length' if said else 'stop'}" in str(refusal.value)
    assert tries <= 10 + SETTINGS["concurrency"] and replies() == []
    assert "kept in" not in str(refusal.value)
    assert not any(verdict.refused for verdict in judge(server).compare(many[:3])), (
        "with other settings it is asked anew"
    )


def test_refusals_before_the_first_letter_are_kept_with_it(server: JudgeServer) -> None:
    """As the first questions of a dataset about violence: a judge is one as soon as it has given a letter."""
    server.refuse = "because"
    asked = judge(server)
    some = QUESTIONS[:3]
    assert all(verdict.refused for verdict in asked.compare(some)) and len(replies()) == 6
    other = [Question(PROMPT, f"why {n}", f"as {n}") for n in range(8)]
    mixed = [*QUESTIONS[3:], *other, *(Question(PROMPT, f"because of {n}", f"for {n}") for n in range(9))]
    verdicts = asked.compare(mixed)
    assert [verdict.refused for verdict in verdicts] == [True] * 2 + [False] * 8 + [True] * 9
    assert len(replies()) == server.tries == 2 * (len(some) + len(mixed))


def test_slow_replies_after_the_tenth_are_no_refusals(server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were under way when the judge was stopped must not be kept either."""
    arrived = iter(range(1000))

    def reply(*_: Any) -> tuple[int, Any]:
        if next(arrived) >= 10:
            time.sleep(0.3)
        return 200, completion("I prefer the first.")

    many = [Question(PROMPT, f"because {n}", f"for {n}") for n in range(20)]
    monkeypatch.setattr(server, "reply", reply)
    with pytest.raises(UserError, match=r"none of the \d+ replies"):
        LLM.load(SETTINGS | {"base_url": server.url, "concurrency": 8}).compare(many)
    assert replies() == []


def some(text: str, count: int) -> list[Question]:
    return [Question(PROMPT, f"{text} {n}", f"for {n}") for n in range(count)]


def test_a_judge_that_gave_letters_may_refuse_the_next_questions(server: JudgeServer) -> None:
    """Every stage asks first about something else; one whose first questions are all refused must not stop for good."""
    server.refuse = "because"
    asked = judge(server)
    assert not any(verdict.refused for verdict in asked.compare(some("as", 20)))
    assert all(verdict.refused for verdict in asked.compare(some("because", 20))), "the same object"
    assert all(verdict.refused for verdict in judge(server).compare(some("because of", 20))), "a later stage"
    assert all(verdict.refused for verdict in judge(server).compare(some("because", 20))), "all from the cache"
    with pytest.raises(UserError, match="none of the 10 replies"):
        LLM.load(SETTINGS | {"base_url": server.url, "max_tokens": 3}).compare(some("because", 20))


def test_letters_of_another_model_or_another_endpoint_make_no_judge(server: JudgeServer) -> None:
    """They are in the same file; whoever changes to one that gives none must not pay for all of its ties."""
    assert not any(verdict.refused for verdict in judge(server).compare(QUESTIONS))
    server.model, server.reply_text = "other", "I prefer the first."
    with pytest.raises(UserError, match="none of the 10 replies of other at"):
        LLM.load(SETTINGS | {"base_url": server.url, "model": "other"}).compare(some("as", 10))
    with JudgeServer() as second:
        second.reply_text = "I prefer the first."
        with pytest.raises(UserError, match="none of the 10 replies of judge at"):
            judge(second).compare(some("as", 10))
    assert len(replies()) == 10, "the letters"


def test_more_tokens_are_paid_for_only_where_fewer_were_not_enough(
    server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = server.reply

    def reply(path: str, authorization: str | None, body: dict[str, Any]) -> tuple[int, Any]:
        status, answered = answer(path, authorization, body)
        content = body["messages"][-1]["content"]
        if body["max_tokens"] == 4 and "because 3" in content:
            answered = completion("Let me", finish_reason="length")
        if body["max_tokens"] == 4 and "because 4" in content:
            answered = completion(None, finish_reason="length")
        return status, answered

    monkeypatch.setattr(server, "reply", reply)
    with pytest.raises(UserError, match=r"raise judge\.max_tokens"):
        judge(server).compare(QUESTIONS)
    tries = server.tries
    more = LLM.load(SETTINGS | {"base_url": server.url, "max_tokens": 400})
    assert not any(verdict.refused for verdict in more.compare(QUESTIONS))
    assert tries == 9 and server.tries == tries + 4, "two questions, in both orders"
    assert judge(server).compare(QUESTIONS[:3]) == more.compare(QUESTIONS[:3]) and server.tries == tries + 4
