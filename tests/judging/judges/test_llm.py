"""A language model as a judge, end to end against a small local endpoint."""

import json
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, log_odds
from pydantic import ValidationError

from epsilon_dpo.judging.judges import llm_endpoint
from epsilon_dpo.judging.judges.answer_cache import AnswerCache
from epsilon_dpo.judging.judges.interface import Question
from epsilon_dpo.judging.judges.llm import LLM
from epsilon_dpo.judging.judges.llm_prompt import CERTAIN, read
from epsilon_dpo.judging.judges.loading import load_judge
from epsilon_dpo.judging.making.params import LLMJudge
from epsilon_dpo.judging.making.sources import build
from epsilon_dpo.judging.scoring.comparisons import label_comparisons
from epsilon_dpo.judging.scoring.scoring import judge_comparisons, refuse_preference_among_equals
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json

PROMPT = [{"role": "user", "content": "Why is the sky blue?"}]
TEXTS = ["It scatters blue light.", "No idea.", "Because of the sea", "Light of short waves is scattered more."]
QUESTIONS = [Question(PROMPT, a, b) for a in TEXTS for b in TEXTS if a != b] + [Question(PROMPT, "same", " same ")]
DISTINCT = 12 + 1  # ordered pairs of different texts, and the one question about two equal ones
SIDES = ("chosen", "rejected")
KEY = "sk-secret-of-the-test"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is written below the working directory; the key is the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer(key=KEY) as running:
        yield running


def params(url: str, **changes: Any) -> LLMJudge:
    settings = {
        "source": "llm", "base_url": url, "model": "judge", "temperature": 0.0, "max_tokens": 4, "concurrency": 4,
        "timeout": 20.0, "usd_per_million_input_tokens": 2.0, "usd_per_million_output_tokens": 8.0,
    }  # fmt: skip
    return LLMJudge(**{**settings, **changes})


def judge(url: str, **changes: Any) -> LLM:
    out = Path("out/judge")
    out.mkdir(parents=True, exist_ok=True)
    built = build(params(url, **changes), [], 0, out, Path("scratch"), lambda *_: None, save_steps=1000)
    assert isinstance(built, LLM)
    return built


def test_a_verdict_is_the_log_odds_of_both_orders(server: JudgeServer) -> None:
    verdicts = judge(server.url).compare(QUESTIONS)
    for (_, a, b), verdict in zip(QUESTIONS, verdicts, strict=True):
        a, b = a.strip(), b.strip()
        assert verdict.f_ab == pytest.approx(log_odds(a, b), abs=1e-9)
        assert verdict.f_ba == pytest.approx(log_odds(b, a), abs=1e-9)
        assert (verdict.len_a, verdict.len_b) == (len(a), len(b)) and not verdict.refused
    assert verdicts[-1].logit == 0.0 and abs(verdicts[0].logit) > 0.1
    of = {(q.a, q.b): verdict.logit for q, verdict in zip(QUESTIONS, verdicts, strict=True)}
    assert all(of[a, b] == -of[b, a] for a, b in of if a.strip() != b.strip())


def test_nothing_is_asked_twice_and_costs_are_those_of_the_verdicts(server: JudgeServer) -> None:
    first = judge(server.url)
    verdicts = first.compare(QUESTIONS)
    assert sum(server.asked.values()) == len(server.asked) == server.tries == DISTINCT
    expected = {
        "judge_questions": DISTINCT,
        "judge_uncounted_questions": 0,
        "judge_input_tokens": 100 * DISTINCT,
        "judge_output_tokens": DISTINCT,
        "judge_cost_usd": (100 * DISTINCT * 2.0 + DISTINCT * 8.0) / 1e6,
    }
    assert first.usage() == pytest.approx(expected)
    again = load_judge(Path("out/judge"))
    assert again.usage()["judge_questions"] == 0
    assert again.compare(QUESTIONS) == verdicts and again.compare(QUESTIONS[:3]) == verdicts[:3]
    assert server.tries == DISTINCT and again.usage() == pytest.approx(expected)


def test_a_cached_judge_needs_no_endpoint_and_no_key(server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = judge(server.url).compare(QUESTIONS)
    server.__exit__()
    monkeypatch.delenv("OPENAI_API_KEY")
    assert load_judge(Path("out/judge")).compare(QUESTIONS) == verdicts


def test_an_experiment_in_a_copy_of_the_project_asks_nothing_that_the_project_has_asked(
    server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dvc exp run --temp` works in a copy, which is removed afterwards, and names the project in DVC_ROOT."""
    verdicts = judge(server.url).compare(QUESTIONS[:2])
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert judge(server.url).compare(QUESTIONS[:3])[:2] == verdicts
    assert server.tries == 6 and rows(tmp_path / "cache/judge/answers.sqlite") == 6
    assert not Path("cache").exists()


@pytest.mark.parametrize(
    "changes", [{"model": "other"}, {"temperature": None}, {"max_tokens": 3}], ids=["model", "temperature", "tokens"]
)
def test_another_request_is_another_question(server: JudgeServer, changes: dict[str, Any]) -> None:
    judge(server.url).compare(QUESTIONS[:1])
    server.model = changes.get("model", "judge")
    judge(server.url, **changes).compare(QUESTIONS[:1])
    assert server.tries == 4
    assert ("temperature" in server.bodies[-1]) == (changes.get("temperature", 0.0) is not None)


def test_another_address_is_another_endpoint(server: JudgeServer) -> None:
    judge(server.url).compare(QUESTIONS[:1])
    judge(f"{server.url}/").compare(QUESTIONS[:1])
    assert server.tries == 2, "the same address"
    with JudgeServer() as second:
        judge(second.url).compare(QUESTIONS[:1])
        assert second.tries == 2


def test_without_log_probabilities_the_letter_decides(server: JudgeServer) -> None:
    server.logprobs = False
    verdicts = judge(server.url).compare(QUESTIONS)
    for (_, a, b), verdict in zip(QUESTIONS, verdicts, strict=True):
        first, second = log_odds(a.strip(), b.strip()), log_odds(b.strip(), a.strip())
        assert (verdict.f_ab, verdict.f_ba) == (math.copysign(CERTAIN, first), math.copysign(CERTAIN, second))
    assert verdicts[-1].f_ab == CERTAIN and verdicts[-1].logit == 0.0


@pytest.mark.parametrize("name", ["logprobs", "max_tokens"])
def test_what_a_model_turns_down_is_left_out(server: JudgeServer, name: str) -> None:
    server.rejected = (name,)
    verdicts = judge(server.url, concurrency=1).compare(QUESTIONS)
    assert [v.logit > 0 for v in verdicts[:-1]] == [len(q.a) > len(q.b) for q in QUESTIONS[:-1]]
    assert server.tries == DISTINCT + 1  # the first question once more
    assert name not in server.bodies[-1] and ("max_completion_tokens" in server.bodies[-1]) == (name == "max_tokens")


def test_refusals_are_ties_and_counted(server: JudgeServer) -> None:
    server.refuse = "No idea"
    pairs = [
        {
            "id": str(i),
            "prompt": PROMPT,
            **{s: [{"role": "assistant", "content": x}] for s, x in zip(SIDES, q[1:], strict=True)},
        }
        for i, q in enumerate(QUESTIONS)
    ]
    records = judge_comparisons(judge(server.url), label_comparisons(pairs), None)
    refused = ["No idea" in q.a + q.b for q in QUESTIONS]
    assert [record["refused"] for record in records] == refused and sum(refused) == 6
    assert all((r["f_ab"], r["f_ba"], r["win"]) == (0.0, 0.0, 0.5) for r in records if r["refused"])
    refuse_preference_among_equals(records)
    judge(server.url).compare(QUESTIONS)
    assert server.tries == DISTINCT  # a refusal is an answer, too


@pytest.mark.parametrize("status", [429, 500])
def test_failures_that_pass_are_asked_again(server: JudgeServer, status: int) -> None:
    server.fail_every = (3, status)
    verdicts = judge(server.url).compare(QUESTIONS)
    assert not any(verdict.refused for verdict in verdicts)
    assert set(server.asked.values()) == {1} and len(server.asked) == DISTINCT
    assert server.tries == DISTINCT + (DISTINCT - 1) // 2


def test_failures_that_stay_are_one_sentence_and_lose_nothing(
    server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm_endpoint, "RETRIES", 2)
    judge(server.url).compare(QUESTIONS[:3])
    paid = server.tries
    server.fail_every = (1, 429)
    with pytest.raises(UserError, match=r"in spite of retries \(429: try again\); .* the replies so far are kept"):
        judge(server.url, concurrency=1).compare(QUESTIONS)
    server.fail_every, before = None, server.tries
    judge(server.url).compare(QUESTIONS)
    assert server.tries - before == DISTINCT - paid


def test_a_key_that_becomes_bad_loses_no_verdict_already_paid_for(
    server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth question meets a revoked key; those under way are kept, and only the rest is asked afterwards."""
    server.fail_every = (5, 401)
    with pytest.raises(UserError, match=r"refuses the key in OPENAI_API_KEY \(401: try again\)"):
        judge(server.url, concurrency=1).compare(QUESTIONS)
    assert len(server.asked) == 4
    server.fail_every = None
    assert len(judge(server.url).compare(QUESTIONS)) == len(QUESTIONS)
    assert set(server.asked.values()) == {1} and len(server.asked) == DISTINCT


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "socks://127.0.0.1:9/"])
def test_a_proxy_that_cannot_be_used_is_one_sentence(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """GNOME exports the second; the client is not made, whatever is asked."""
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(UserError, match=r"cannot be asked through the proxy .*: unset all_proxy"):
        judge("http://127.0.0.1:9/v1")


def sentence(url: str, **changes: Any) -> str:
    with pytest.raises(UserError) as refusal:
        judge(url, **changes).compare(QUESTIONS)
    assert "\n" not in str(refusal.value) and KEY not in str(refusal.value)
    return str(refusal.value)


def test_a_bad_key_a_missing_one_and_a_wrong_model_are_one_sentence_each(
    server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "has no model 'jugde'" in sentence(server.url, model="jugde")
    server.key = "another"
    assert "refuses the key in OPENAI_API_KEY (401: Incorrect API key provided)" in sentence(server.url)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "refuses a request without OPENAI_API_KEY" in sentence(server.url)
    assert "usually ends in /v1" in sentence(server.url.removesuffix("/v1"))
    assert not server.asked


def test_a_dead_endpoint_is_one_sentence_before_all_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with monkeypatch.context() as waits:
            waits.setattr(time, "sleep", lambda _: pytest.fail("it is tried again"))
            assert f"{url} cannot be reached" in sentence(url)


def test_no_finaliser_runs_when_a_failed_stage_ends() -> None:
    """Its exception holds the client until Python has cleared what the finaliser of openai's own one would use."""
    client = llm_endpoint.Endpoint("http://127.0.0.1:9/v1", 1.0)._client
    assert not hasattr(client._client, "__del__")
    assert not hasattr(client.with_options(max_retries=0)._client, "__del__")


def test_a_page_that_is_no_endpoint_is_one_sentence(server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "reply", lambda *_: (200, {"hello": "world"}))
    assert "does not answer in OpenAI's format" in sentence(server.url)
    assert rows(Path("cache/judge/answers.sqlite")) == 0


PROGRAM = """
import json, sys
from pathlib import Path
from epsilon_dpo.judging.judges.interface import Question
from epsilon_dpo.judging.judges.loading import load_judge
load_judge(Path("out/judge")).compare([Question(*question) for question in json.loads(sys.argv[1])])
"""


def test_a_killed_run_asks_only_for_what_it_had_no_answer_to(server: JudgeServer) -> None:
    judge(server.url, concurrency=2)
    server.answer_at_most = 5
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, json.dumps(QUESTIONS)])
    cache = Path("cache/judge/answers.sqlite")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (cache.is_file() and rows(cache) == 5):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert rows(cache) == 5 == sum(server.asked.values())
    server.answer_at_most = None
    judge(server.url).compare(QUESTIONS)
    assert set(server.asked.values()) == {1} and len(server.asked) == DISTINCT


def test_ctrl_c_waits_for_no_retry(server: JudgeServer) -> None:
    judge(server.url, concurrency=2, timeout=1.0)
    server.answer_at_most = 0
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, json.dumps(QUESTIONS)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.tries < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert server.tries < 2 * (llm_endpoint.RETRIES + 1) and b"KeyboardInterrupt" in said


def rows(cache: Path) -> int:
    try:
        with sqlite3.connect(cache) as opened:
            return opened.execute("SELECT count(*) FROM answers").fetchone()[0]
    except sqlite3.OperationalError:  # the table is about to be made
        return 0


def test_the_key_is_in_no_file(server: JudgeServer) -> None:
    judge(server.url).compare(QUESTIONS)
    files = [file for file in Path.cwd().rglob("*") if file.is_file()]
    assert {file.name for file in files} == {"judge.json", "answers.sqlite"}
    assert not any(KEY.encode() in file.read_bytes() for file in files)
    settings = read_json(Path("out/judge/judge.json"))
    assert settings["origin"] == f"judge at {server.url}" and settings["template"] == "letter-1"


def test_ranks_are_mean_logits(server: JudgeServer) -> None:
    texts = [TEXTS[1], TEXTS[3], TEXTS[0], TEXTS[1]]
    [scores] = judge(server.url).rank([PROMPT], [texts])
    expected = [sum(0.2 * (len(x) - len(y)) for y in texts) / 4 for x in texts]
    assert scores == pytest.approx(expected, abs=1e-9)


def completion(content: str | None, top: dict[str, float] | None = None, **message: Any) -> dict[str, Any]:
    choice: dict[str, Any] = {"message": {"content": content, **message}}
    if top is not None:
        listed = [{"token": token, "logprob": math.log(p)} for token, p in top.items()]
        choice["logprobs"] = {"content": [{"token": content, "logprob": -0.1, "top_logprobs": listed}]}
    return {"choices": [choice]}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (completion("A"), CERTAIN),
        (completion(" **B**.\n"), -CERTAIN),
        (completion("Answer: A"), CERTAIN),
        (completion("A good answer is B"), None),
        (completion("Neither"), None),
        (completion("AB"), None),
        (completion("a"), None),
        (completion(""), None),
        (completion(None), None),
        (completion("A", refusal="I cannot"), None),
        ({"choices": []}, None),
        ({}, None),
        (completion("A", {"A": 0.8, "B": 0.2}), math.log(4.0)),
        (completion("A", {"A": 0.2, "B": 0.8}), -math.log(4.0)),  # drawn against the odds
        (completion("A", {"A": 0.5, " A": 0.1, "B": 0.3}), math.log(2.0)),
        (completion("B", {"B": 0.9, "C": 0.04}), -math.log(0.9 / 0.04)),  # A is at most as probable as C
        (completion("B", {"B": 0.9, "C": 0.08}), -math.log(0.9 / 0.02)),  # and at most what is left
        (completion("B", {"B": 1.0}), -CERTAIN),
        (completion("A", {"A": 1.0, "B": 1e-300}), CERTAIN),
        (completion("A", {}), CERTAIN),
    ],
    ids=str,
)
def test_how_a_reply_is_read(reply: dict[str, Any], expected: float | None) -> None:
    found = read(reply).margin()
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found == pytest.approx(expected, abs=1e-9)
    json.dumps(found, allow_nan=False)


def test_the_letter_is_looked_for_where_it_stands() -> None:
    def token(text: str, **top: float) -> dict[str, Any]:
        return {"token": text, "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in top.items()]}

    content = [token("Answer", A=0.1, Answer=0.8), token(":"), token(" B", A=0.25, B=0.75)]
    reply = {"choices": [{"message": {"content": "Answer: B"}, "logprobs": {"content": content}}]}
    assert read(reply).margin() == pytest.approx(-math.log(3.0))
    thoughts = [token("Is"), token(" A", A=0.84, B=0.16), token(" or"), token(" B", A=0.6, B=0.4), token("</think>")]
    reply["choices"][0]["logprobs"]["content"] = [*thoughts, *content, token("<|im_end|>")]
    assert read(reply).margin() == pytest.approx(-math.log(3.0)), "thoughts' tokens are listed, the text holds none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "api.openai.com/v1"}, "an address such as"),
        ({"base_url": "http://localhost:PORT/v1"}, "an address such as"),
        ({"base_url": "http://localhost:80000/v1"}, "an address such as"),
        ({"base_url": "http://[::1/v1"}, "an address such as"),
        ({"base_url": f"https://user:{KEY}@host/v1"}, "no user, password or query"),
        ({"base_url": f"https://host/v1?key={KEY}"}, "no user, password or query"),
        ({"usd_per_million_input_tokens": None}, "both prices"),
        ({"concurrency": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        params("http://host/v1", **changes)


def test_a_damaged_cache_is_one_sentence() -> None:
    cache = Path("cache/judge/answers.sqlite")
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"answers\.sqlite is damaged .*move it away"):
        judge("http://127.0.0.1:9/v1")


@pytest.mark.parametrize("use", ["read", "write"])
def test_a_cache_damaged_past_its_first_pages_is_one_sentence(server: JudgeServer, use: str) -> None:
    many = [Question(PROMPT, f"because {n}", f"for {n}") for n in range(40)]
    judge(server.url).compare(many)
    cache = Path("cache/judge/answers.sqlite")
    with sqlite3.connect(cache) as opened:
        size = opened.execute("PRAGMA page_size").fetchone()[0]
    whole = cache.read_bytes()
    cache.write_bytes(whole[:size] + b"\xff" * (len(whole) - size))
    with pytest.raises(UserError, match=r"answers\.sqlite is damaged .*malformed.*move it away") as refusal:
        if use == "read":
            judge(server.url).compare(many)
        else:
            judge(server.url).cache.put("key", {}, {})
    assert "are kept" not in str(refusal.value)


def test_a_cache_that_is_locked_is_not_called_damaged(server: JudgeServer) -> None:
    """Whoever moves it away pays for all of its replies again."""
    judge(server.url).compare(QUESTIONS[:1])
    cache = judge(server.url).cache
    with sqlite3.connect("cache/judge/answers.sqlite") as other:
        cache._rows.execute("PRAGMA busy_timeout = 10")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match=r"cannot be used for now \(database is locked\).* was paid for"):
            cache.put("key", {}, {})
        other.rollback()
    cache.put("key", {}, {})


def test_of_two_replies_to_one_request_the_first_stays(tmp_path: Path) -> None:
    """Two experiments at once may ask the same; the verdicts of the one that is done must not change."""
    one, other = AnswerCache(tmp_path), AnswerCache(tmp_path)
    one.put("key", {}, {"reply": 1})
    other.put("key", {}, {"reply": 2})
    assert one.get("key", dict) == other.get("key", dict) == {"reply": 1}


def test_an_endpoint_that_counts_no_tokens_is_said_so(server: JudgeServer) -> None:
    server.count_tokens = False
    asked = judge(server.url, usd_per_million_input_tokens=None, usd_per_million_output_tokens=None)
    asked.compare(QUESTIONS[:1])
    assert asked.usage() == {
        "judge_questions": 2.0,
        "judge_uncounted_questions": 2.0,
        "judge_input_tokens": 0.0,
        "judge_output_tokens": 0.0,
    }
