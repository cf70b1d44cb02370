"""A small endpoint that answers in OpenAI's format: the longer answer is better, and A by a little."""

import json
import math
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]
ANSWERS = re.compile(r"\[Answer A\]\n(.*)\n\[End of answer A\]\n\n\[Answer B\]\n(.*)\n\[End of answer B\]", re.DOTALL)


def log_odds(first: str, second: str) -> float:
    """What the server thinks, in nats."""
    return 0.1 * (len(first) - len(second)) + 0.25


class JudgeServer:
    """Starts on a free port; `with` ends it.

    Attributes:
        asked: how often each question came, as (answer A, answer B); those that failed are not counted.
        tries: all requests for a completion, failed ones included.
        fail_every: (n, status): every n-th request for a completion is answered so.
        refuse: a question with this text in it is refused.
        rejected: names of parameters that the model turns down with 400.
        wait: the headers that say when to try again.
        answer_at_most: completions after which requests hang until the server ends; None: no limit.
    """

    def __init__(self, logprobs: bool = True, key: str | None = None, model: str = "judge") -> None:
        self.logprobs, self.key, self.model = logprobs, key, model
        self.fail_every: tuple[int, int] | None = None
        self.refuse: str | None = None
        self.rejected: tuple[str, ...] = ()
        self.wait = {"retry-after-ms": "1"}
        self.answer_at_most: int | None = None
        self.reply_text: str | None = None
        self.count_tokens = True
        self.asked: Counter[tuple[str, str]] = Counter()
        self.tries = 0
        self.bodies: list[Json] = []
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "JudgeServer":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()

    def reply(self, path: str, authorization: str | None, body: Json) -> tuple[int, Json | bytes]:
        if path != "/v1/chat/completions":
            return 404, _error("no such page")
        with self._lock:
            self.tries += 1
            tries = self.tries
            self.bodies.append(body)
        if self.key is not None and authorization != f"Bearer {self.key}":
            return 401, _error("Incorrect API key provided")
        if body["model"] != self.model:
            return 404, _error(f"The model `{body['model']}` does not exist")
        for name in self.rejected:
            if name in body:
                hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
                return 400, _error(f"Unsupported parameter: '{name}' is not supported with this model.{hint}")
        if self.fail_every and tries % self.fail_every[0] == 0:
            return self.fail_every[1], _error("try again")
        return self._answer(body)

    def _answer(self, body: Json) -> tuple[int, Json]:
        question = body["messages"][-1]["content"]
        found = ANSWERS.search(question)
        assert found is not None
        with self._lock:
            if self.answer_at_most is not None and sum(self.asked.values()) >= self.answer_at_most:
                self.answer_at_most = -1
            else:
                self.asked[found.groups()] += 1
        if self.answer_at_most == -1:
            self._end.wait()
        odds = log_odds(*found.groups())
        message: Json = {"role": "assistant", "content": self.reply_text or ("A" if odds > 0 else "B")}
        if self.refuse is not None and self.refuse in question:
            message = {"role": "assistant", "content": "I cannot compare these.", "refusal": None}
        choice: Json = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": None}
        if self.logprobs and body.get("logprobs"):
            choice["logprobs"] = {"content": _logprobs(message["content"], odds), "refusal": None}
        reply = {"id": "x", "object": "chat.completion", "created": 1, "model": self.model, "choices": [choice]}
        if self.count_tokens:
            reply["usage"] = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
        return 200, reply

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(404, _error("no such page"))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._send(*server.reply(self.path, self.headers["Authorization"], body))

            def _send(self, status: int, content: Json | bytes) -> None:
                sent = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(sent)))
                for name, said in server.wait.items():
                    self.send_header(name, said)
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _logprobs(content: str, odds: float) -> list[Json]:
    """The letter's place; P(A) is spread over "A" and " A", as tokenizers have both."""
    p = 0.98 / (1.0 + math.exp(-odds))
    listed = {"A": 0.75 * p, " A": 0.25 * p, "B": 0.98 - p, "The": 0.01}
    top = [{"token": token, "logprob": math.log(max(share, 1e-12)), "bytes": None} for token, share in listed.items()]
    return [{"token": content, "logprob": math.log(0.5), "bytes": None, "top_logprobs": top}]


def _error(message: str) -> Json:
    return {"error": {"message": message, "type": "error", "param": None, "code": None}}
