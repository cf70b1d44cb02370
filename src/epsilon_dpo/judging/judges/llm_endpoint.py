"""An OpenAI-compatible endpoint: one question, one reply, and each way in which that fails as one sentence."""

import json
import math
import os
from contextlib import suppress
from threading import Event
from typing import Any

import httpx2  # the HTTP library under openai
import openai

from epsilon_dpo.judging.judges.llm_prompt import failure, is_silent
from epsilon_dpo.pipeline.observability.errors import UserError, fault_of_proxy, redacted
from epsilon_dpo.pipeline.stage.files import Json

KEY = "OPENAI_API_KEY"
# Of 408, 409, 429, 5xx, timeouts and lost connections, after 0.5 s, doubled up to 8 s, or when the endpoint says: about
# a minute together, since many limits are those of a minute. One that asks for more than two minutes is left alone.
RETRIES = 12
SILENT_RETRIES = 5  # of a reply that says nothing and not why, over some 15 s; then it is a refusal
FIRST_TIMEOUT = 10.0  # seconds for the first sign of life
REMEDY = "start the server or correct judge.base_url."
# Codes of a provider that reads first what it is asked (Azure, OpenAI, DashScope) and does not show it to the model.
# external/verdicts/alpaca_eval_driver.py, which cannot import this, has the same two lists.
FLAGGED = frozenset({"content_filter", "content_policy_violation", "data_inspection_failed"})
# What those say whose codes do not tell: OpenAI (whose invalid_prompt may be a malformed one), OpenRouter, Anthropic,
# LiteLLM before Azure, DeepSeek, xAI. Each speaks of the question: "your account was flagged" would hold of all.
FLAGGING = (
    "your prompt was flagged", "request was flagged", "content was flagged",
    "limited access to this content for safety reasons", "your input was flagged",
    "output blocked by content filtering policy", "content management policy", "content exists risk",
    "content violates usage guidelines",
)  # fmt: skip


class Endpoint:
    """The address `base_url`. The key comes from the environment and goes nowhere else.

    What an endpoint turns down is left out from then on: log-probabilities, which reasoning models do not give, and
    the name max_tokens, for which newer models want max_completion_tokens.
    """

    def __init__(self, base_url: str, timeout: float) -> None:
        self.base_url = base_url
        self.timeout = timeout
        key = os.environ.get(KEY, "").strip() or "none"  # local servers ask for none, the client insists on one
        try:
            self._client = openai.OpenAI(
                base_url=base_url,
                api_key=key,
                timeout=timeout,
                max_retries=RETRIES,
                http_client=openai.DefaultHttpxClient(),  # openai's own one ends a failed stage with a traceback
            )
        except (ImportError, ValueError) as error:  # of a SOCKS proxy, for which the HTTP library lacks a package
            if (fault := fault_of_proxy(base_url, error)) is None:
                raise
            raise fault from None
        self._logprobs = True
        self._max_tokens = "max_tokens"
        self._closed = Event()

    def require_life(self) -> None:
        """Any reply will do, also that there is no such page.

        Raises:
            UserError: there is none, said after seconds and not after all retries of the first question; or the key
                can be no key, which the HTTP library would show in its traceback.
        """
        if not self._client.api_key.isascii():
            raise UserError(f"{KEY} holds a character that stands in no key, as a curly quote; export it anew.")
        first = self._client.with_options(max_retries=0, timeout=FIRST_TIMEOUT)
        try:
            first.get("/models", cast_to=httpx2.Response)
        except openai.APIConnectionError as error:
            raise UserError(f"{self.base_url} cannot be reached ({_cause(error)}); {REMEDY}") from None
        except openai.APIError:
            pass

    def ask(self, request: Json) -> Json:
        """The chat completion that answers `request` ("model", "messages", "max_tokens" and, if wanted, "temperature").

        llm_prompt.py reads its content.

        Raises:
            UserError: bad key, no such model or address, no connection, errors that outlast the retries, or a reply
                that is no JSON object with choices.
        """
        try:
            return self._persisting(request)
        except openai.AuthenticationError as error:
            what = "the key in" if os.environ.get(KEY) else "a request without"
            raise UserError(f"{self.base_url} refuses {what} {KEY} ({_said(error)}); set a valid one.") from None
        except openai.PermissionDeniedError as error:
            raise UserError(
                f"{self.base_url} permits no question to {request['model']!r} ({_said(error)}); set judge.model to one "
                f"that you may ask, or {KEY} to a key that may."
            ) from None
        except openai.NotFoundError as error:
            raise UserError(
                f"{self.base_url} has no model {request['model']!r}, or is no OpenAI-compatible address "
                f"({_said(error)}); correct judge.model or judge.base_url, which usually ends in /v1."
            ) from None
        except openai.APITimeoutError:
            raise UserError(
                f"{self.base_url} gave no answer within judge.timeout = {self.timeout:g} s, {RETRIES + 1} times; "
                "raise it, or run again later."
            ) from None
        except openai.APIConnectionError as error:
            raise UserError(
                f"{self.base_url} can no longer be reached ({_cause(error)}); start the server again at this address."
            ) from None
        except openai.APIStatusError as error:
            if _is_too_long(error):
                raise UserError(
                    f"{self.base_url}: the context of {request['model']} is too short for a question and "
                    f"judge.max_tokens together ({_said(error)}); serve it with a longer context, lower "
                    "judge.max_tokens, or choose another judge.model."
                ) from None
            outlasted = " in spite of retries" if _retries(error) else ""
            raise UserError(
                f"{self.base_url} refuses a question to {request['model']}{outlasted} ({_said(error)}){_wait(error)}; "
                "fix what it names (judge.temperature, judge.max_tokens, judge.concurrency), or run again later."
            ) from None

    def close(self) -> None:
        """A request that is under way ends with its timeout at the latest, and is not tried again."""
        self._closed.set()
        self._client.close()

    def _persisting(self, request: Json) -> Json:
        """Tries again also where a gateway says with status 200 that what is behind it has failed, or says nothing."""
        said: Json = {}
        for retry in range(RETRIES + 1):
            reply = self._adapting(request)
            failed = failure(reply)
            if failed is None and not (is_silent(reply) and retry < SILENT_RETRIES):
                return reply
            said = failed or {"message": "a reply that says nothing"}
            if retry == RETRIES or not _passes(said) or self._closed.wait(min(0.5 * 2.0**retry, 8.0)):
                break
        raise UserError(
            f"{self.base_url} cannot answer a question to {request['model']} ({_in_a_line(said)}); run again later, or "
            "choose another judge.model."
        )

    def _adapting(self, request: Json) -> Json:
        while True:
            wanted = dict(request)
            wanted[self._max_tokens] = wanted.pop("max_tokens")
            if self._logprobs:
                wanted |= {"logprobs": True, "top_logprobs": 5}
            try:
                answered = self._client.chat.completions.with_raw_response.create(**wanted)
            except (openai.BadRequestError, openai.PermissionDeniedError, openai.UnprocessableEntityError) as error:
                if _is_flagged(error):
                    return {"choices": [{"finish_reason": "content_filter", "message": {"refusal": _said(error)}}]}
                if not self._leave_out(error.response.text.lower(), wanted):
                    raise
            else:
                return self._completion(answered.content)

    def _completion(self, body: bytes) -> Json:
        """As it was sent: the client's own reading of it passes on whatever it cannot read."""
        if not body.strip():
            return {"error": "an empty reply, as an overloaded server's or a wrong address's"}
        try:
            reply = json.loads(body)
        except (ValueError, RecursionError):
            reply = None
        said: Json = reply if isinstance(reply, dict) else {}
        if not ("choices" in said or said.get("object") == "chat.completion" or said.get("error")):
            raise UserError(f"{self.base_url} does not answer in OpenAI's format; correct judge.base_url.")
        return said

    def _leave_out(self, complaint: str, wanted: Json) -> bool:
        """Whether asking differently may help."""
        if "logprobs" in complaint and "logprobs" in wanted:
            self._logprobs = False
        elif "max_completion_tokens" in complaint and "max_tokens" in wanted:
            self._max_tokens = "max_completion_tokens"
        else:
            return False
        return True


def _is_flagged(error: openai.APIStatusError) -> bool:
    """Whether the question is refused for what it is about, and others are answered."""
    if error.status_code == 400 and not FLAGGED.isdisjoint((str(error.code), str(error.type))):  # may be of any kind
        return True
    behind = error.body.get("metadata") if isinstance(error.body, dict) else None  # OpenRouter's, of its provider
    behind = behind if isinstance(behind, dict) else {}
    if "flagged_input" in behind or str(behind.get("error_type")) in FLAGGED:
        return True
    said = f"{_message(error.body)} {behind.get('raw')}".lower()
    return any(phrase in said for phrase in FLAGGING)


def _is_too_long(error: openai.APIStatusError) -> bool:
    """As OpenAI, Azure and vLLM say it of a question."""
    return error.code == "context_length_exceeded" or "context length" in str(_message(error.body)).lower()


def _passes(failed: Json) -> bool:
    """Whether trying again may help: all but what is said to be the request's own fault."""
    code = failed.get("code")
    return not isinstance(code, int) or code in (408, 409, 429) or code >= 500


def _retries(error: openai.APIStatusError) -> int:
    """How often the question was asked again before this reply, as the client counts in its requests."""
    return int(error.request.headers.get("x-stainless-retry-count", "0"))


def _wait(error: openai.APIStatusError) -> str:
    """What the endpoint asks for where the client gave up for that: seconds, or a date.

    The client takes the milliseconds first, reads a fraction too, and waits for no infinity.
    """
    if _retries(error) == RETRIES:
        return ""
    headers = error.response.headers
    for name, in_a_second in (("retry-after-ms", 1000), ("retry-after", 1)):
        with suppress(ValueError):
            seconds = float(headers.get(name, "")) / in_a_second
            return f" and asks to wait {seconds:.10g} s" if 1.0 <= seconds < math.inf else ""
    later = redacted(headers.get("retry-after", ""))[:40]
    return f" and asks to wait until {later}" if later else ""


def _said(error: openai.APIStatusError) -> str:
    """Status and message of the endpoint, on one line; a gateway may put the key into it."""
    return _in_a_line({"code": error.status_code, "message": _message(error.body) or error.message})


def _in_a_line(failed: Json) -> str:
    code = f"{failed['code']}: " if failed.get("code") else ""
    return f"{code}{redacted(' '.join(str(failed.get('message')).split()))[:200]}"


def _message(body: Any) -> Any:
    """Gemini puts its error into a list of one; xAI's is a text."""
    found = body[0] if isinstance(body, list) and body else body
    found = found.get("error", found) if isinstance(found, dict) else found
    return found.get("message") if isinstance(found, dict) else found


def _cause(error: Exception) -> str:
    return redacted(" ".join(str(error.__cause__ or error).split()))
