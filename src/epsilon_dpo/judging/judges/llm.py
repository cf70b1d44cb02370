"""A language model behind an endpoint as a judge: asked twice a pair, with the answers swapped (llm_prompt.py).

What it replied is kept (answer_cache.py), so a re-run asks nothing twice and gives the same verdicts; under a larger
max_tokens it asks what a smaller one cut off. Identical answers tie, and swapping a and b flips the sign exactly. DVC
watches the endpoint's address and the model's name, not which model the endpoint serves: when that changes, remove
cache/judge and run `dvc repro -f -s judge`.

A reply without a letter is a refusal, and kept, once the judge has given a letter at all, now or in a reply that is
kept. One that gives none in its first ten replies is stopped then: it is no judge, and it leaves no verdicts. Fewer
than ten are believed.
"""

import json
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from threading import Event, Lock

from pydantic import ValidationError
from tqdm import tqdm

from epsilon_dpo.judging.judges.answer_cache import AnswerCache, DamagedCache, cache_folder, key_of
from epsilon_dpo.judging.judges.interface import Messages, Question, Verdict, rank_by_comparison
from epsilon_dpo.judging.judges.llm_endpoint import Endpoint
from epsilon_dpo.judging.judges.llm_prompt import CutOff, Reply, messages, read, system
from epsilon_dpo.pipeline.observability.errors import UserError, redacted
from epsilon_dpo.pipeline.stage.files import Json

SOME = 10  # replies; fewer may all be refused for what they were asked about


class NoJudge(UserError):
    """No reply is a letter."""


class LLM:
    """The judge that `settings` (judge.json) describe."""

    def __init__(self, settings: Json, endpoint: Endpoint, cache: AnswerCache) -> None:
        self.settings = settings
        self.endpoint = endpoint
        self.cache = cache
        self.criterion: str | None = settings.get("criterion")  # an older version wrote none
        self._replies: dict[str, Reply] = {}  # all that were used so far
        self._letters = False  # whether there was one
        self._held: dict[str, tuple[Json, Json]] = {}  # request and reply by key, until there is
        self._lock = Lock()

    @classmethod
    def load(cls, settings: Json) -> "LLM":
        endpoint = Endpoint(settings["base_url"], settings["timeout"])
        return cls(settings, endpoint, AnswerCache(cache_folder()))

    def compare(self, questions: list[Question]) -> list[Verdict]:
        """A verdict per question, in the order given.

        Raises:
            UserError: the endpoint does not answer, or not in OpenAI's format, or with no letter at all; the replies
                that arrived and could be read are kept.
        """
        orders = [(self._request(prompt, a, b), self._request(prompt, b, a)) for prompt, a, b in questions]
        margins = self._margins([request for pair in orders for request in pair])
        return [
            _verdict(question, f_ab, f_ba)
            for question, f_ab, f_ba in zip(questions, margins[::2], margins[1::2], strict=True)
        ]

    def rank(self, prompts: list[Messages], candidates: list[list[str]]) -> list[list[float]]:
        """The mean logit against all candidates: n (n - 1) questions a prompt."""
        return rank_by_comparison(self, prompts, candidates)

    def usage(self) -> dict[str, float]:
        """Of the verdicts given so far, whether they were asked now or before.

        `judge_questions`, their `judge_input_tokens` and `judge_output_tokens` as the endpoint counts them,
        `judge_uncounted_questions` for which it did not, and `judge_cost_usd` where prices are stated.
        """
        counts = [reply.usage for reply in self._replies.values() if reply.usage]
        input_tokens = sum(count.prompt_tokens for count in counts)
        output_tokens = sum(count.output_tokens for count in counts)
        found = {
            "judge_questions": float(len(self._replies)),
            "judge_uncounted_questions": float(len(self._replies) - len(counts)),
            "judge_input_tokens": float(input_tokens),
            "judge_output_tokens": float(output_tokens),
        }
        prices = self.settings["usd_per_million_input_tokens"], self.settings["usd_per_million_output_tokens"]
        if None not in prices:
            found["judge_cost_usd"] = (input_tokens * prices[0] + output_tokens * prices[1]) / 1e6
        return found

    def _request(self, prompt: Messages, first: str, second: str) -> Json:
        request = {name: self.settings[name] for name in ("model", "max_tokens")}
        request["messages"] = messages(prompt, first, second, self.criterion)
        if self.settings["temperature"] is not None:
            request["temperature"] = self.settings["temperature"]
        return request

    def _margins(self, requests: list[Json]) -> list[float | None]:
        """What the replies to `requests` say; those that are not in the cache are asked, each once.

        Raises:
            UserError: as `compare`.
        """
        keys = [key_of(self.endpoint.base_url, request) for request in requests]
        by_key = dict(zip(keys, requests, strict=True))
        kept = {key: self._kept(key, request) for key, request in by_key.items()}
        self._letters |= any(reply.margin() is not None for reply in kept.values() if reply)
        self._ask({key: request for key, request in by_key.items() if kept[key] is None})
        for key, found in kept.items():
            reply = found or self.cache.get(key, read)
            assert reply is not None
            self._replies[key] = reply
        if len(kept) >= SOME and not self._is_judge():
            raise self._no_judge(len(kept))
        return [self._replies[key].margin() for key in keys]

    def _kept(self, key: str, request: Json) -> Reply | None:
        """The reply to `request`, or to the same under a smaller max_tokens, unless that cut it off."""
        found = self.cache.get(key, read)
        if found is not None:
            return found
        for limit in self._smaller_limits:
            shorter = self.cache.get(key_of(self.endpoint.base_url, request | {"max_tokens": limit}), read)
            if shorter is not None and not shorter.cut_off():
                return shorter
        return None

    @cached_property
    def _smaller_limits(self) -> list[int]:
        """The values of max_tokens under which this judge may have replied earlier."""
        return [limit for limit in self.cache.limits() if limit < self.settings["max_tokens"]]

    def _is_judge(self) -> bool:
        """Whether it has given a letter at all: to what it was asked now, or in a reply that is kept."""
        self._letters = self._letters or self.cache.holds(self.settings["model"], self._is_letter)
        return self._letters

    def _is_letter(self, key: str, request: Json, reply: str) -> bool:
        """Of a row of the cache: a letter from this endpoint, asked by this criterion under no more tokens."""
        try:
            return (
                request["messages"][0]["content"] == system(self.criterion)
                and request["max_tokens"] <= self.settings["max_tokens"]
                and key_of(self.endpoint.base_url, request) == key
                and read(json.loads(reply)).margin() is not None
            )
        except ValueError:  # kept unread by an older version
            return False

    def _ask(self, requests: dict[str, Json]) -> None:
        """Fill the cache. When one question fails, those under way are waited for and kept, no more are asked.

        Ctrl-C waits for them, too, but not for their retries.
        """
        if not requests:
            return
        self.endpoint.require_life()
        failed = Event()

        def ask_one(key: str, request: Json) -> None:
            if not failed.is_set():
                try:
                    self._keep(key, request, self.endpoint.ask(request))
                except BaseException:
                    failed.set()
                    raise

        pool = ThreadPoolExecutor(self.settings["concurrency"])
        try:
            waiting = [pool.submit(ask_one, key, request) for key, request in requests.items()]
            for done in tqdm(as_completed(waiting), total=len(waiting), desc="ask the judge", unit="question"):
                done.result()
        except (NoJudge, DamagedCache):
            raise
        except UserError as error:
            raise UserError(
                f"{str(error).removesuffix('.')}; the replies so far are kept in {self.cache.path}."
            ) from None
        except BaseException:
            failed.set()
            self.endpoint.close()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # first: what is under way may hold more
            if len(self._held) < SOME:  # too few to tell: they may all be refused for what they were asked about
                self._release()
            self._held.clear()

    def _keep(self, key: str, request: Json, reply: Json) -> None:
        """In the cache, if it can be read (every later run reads it again) and there was a letter."""
        found = self._readable(reply)
        with self._lock:
            self._letters |= found.margin() is not None
            self._held[key] = request, reply
            if len(self._held) >= SOME and not self._is_judge():
                raise self._no_judge(len(self._held), found)
            if self._letters:
                self._release()

    def _release(self) -> None:
        for key, (request, reply) in self._held.items():
            self.cache.put(key, request, reply)
        self._held.clear()

    def _no_judge(self, replies: int, last: Reply | None = None) -> "NoJudge":
        said = ""
        if last is not None and last.first is not None:
            message = last.first.message
            text = redacted(" ".join((message.text() or message.refusal or "").split()))[:60]
            said = f" (it says {text!r}, finish_reason {last.first.finish_reason})"
        own = "take from judge.criterion what it says of the reply, " if self.criterion else ""
        return NoJudge(
            f"none of the {replies} replies of {self.settings['model']} at {self.endpoint.base_url} is the letter A or "
            f"B; raise judge.max_tokens if one such as 'Answer: A' is cut off, {own}or choose another judge.model"
            f"{said}."
        )

    def _readable(self, reply: Json) -> Reply:
        try:
            return read(reply)
        except CutOff:
            raise UserError(
                f"{self.settings['model']} at {self.endpoint.base_url} spends all of judge.max_tokens = "
                f"{self.settings['max_tokens']} before it answers (finish_reason length, no text); raise "
                "judge.max_tokens (a reasoning model thinks for thousands of tokens), or choose another judge.model."
            ) from None
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, problem["loc"]))
            raise UserError(
                f"{self.endpoint.base_url} does not answer in OpenAI's format ({where}: {problem['msg']}); correct "
                "judge.base_url, or choose an endpoint that does."
            ) from None


def _verdict(question: Question, f_ab: float | None, f_ba: float | None) -> Verdict:
    lengths = len(question.a.strip()), len(question.b.strip())
    if f_ab is None or f_ba is None:
        return Verdict(0.0, 0.0, *lengths, refused=True)
    return Verdict(f_ab, f_ba, *lengths)
