"""A judge behind the OpenAI API, on this machine: it counts the word "good" and answers as each tool asks.

AlpacaEval asks for log-probs of the names m and M, Arena-Hard for a label such as [[A>B]], MT-Bench for a grade such as
[[7]]; the server tells them apart by the tools' own prompts.
"""

import json
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a-key-for-the-tests"


def goodness(text: str) -> int:
    return text.split().count("good")


def label(a: str, b: str) -> str:
    difference = goodness(a) - goodness(b)
    return ("A" if difference > 0 else "B" if difference < 0 else "A=B") + (
        "" if difference == 0 else (">>" if abs(difference) > 1 else ">") + ("B" if difference > 0 else "A")
    )


class Judge:
    """Attributes: `url`; `asked`, the requests so far; `broken`, a text whose prompts get a server error."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.broken: str | None = None

    def answer(self, request: dict[str, Any]) -> tuple[str, list[tuple[str, float]] | None]:
        """The answer's text, and the log-probs of its first token."""
        prompt = request["messages"][-1]["content"]
        if request.get("logprobs"):
            shown = re.findall(r'"model_identifier": "(m|M)",\s+"output": """(.*?)"""', prompt, re.DOTALL)
            (_, first), (_, second) = shown
            if "unjudgeable" in prompt:
                return "Sorry", [("Sorry", -0.1)]
            difference = goodness(first) - goodness(second)
            chances = {"m": 1 / (1 + math.exp(-difference)), "M": 1 / (1 + math.exp(difference))}
            return max(chances, key=lambda name: chances[name]), [(x, math.log(p)) for x, p in chances.items()]
        between = r"<\|The Start of Assistant {0}'s Answer\|>(.*?)<\|The End of Assistant {0}'s Answer\|>"
        answers = [re.search(between.format(name), prompt, re.DOTALL) for name in "AB"]
        if answers[0] and answers[1]:
            text = label(answers[0][1], answers[1][1])
            return ("I cannot tell." if "unjudgeable" in prompt else f"My final verdict is [[{text}]]"), None
        answer = re.split(r"### Assistant A:|\[The Start of Assistant's Answer\]", prompt)[-1]
        return ("No grade." if "unjudgeable" in prompt else f"Rating: [[{min(10, 1 + goodness(answer))}]]"), None


@contextmanager
def benchmark_server() -> Iterator[Judge]:
    judge = Judge()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known = self.headers["Authorization"] == f"Bearer {KEY}"
            self.reply(200 if known else 401, {"object": "list", "data": []})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.headers["Authorization"] != f"Bearer {KEY}" or self.path != "/v1/chat/completions":
                self.reply(401, {"error": {"message": "no"}})
                return
            judge.asked.append(request)
            if judge.broken is not None and judge.broken in json.dumps(request):
                self.reply(400, {"error": {"message": "this judge is broken", "type": "invalid_request_error"}})
                return
            text, first = judge.answer(request)
            choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
            choice["message"] = {"role": "assistant", "content": text}
            if first is not None:
                tokens = [{"token": token, "bytes": None, "logprob": x, "top_logprobs": []} for token, x in first]
                choice["logprobs"] = {"content": [{**tokens[0], "top_logprobs": tokens}], "refusal": None}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            answer = {"id": "x", "object": "chat.completion", "created": 0, "model": request["model"], "usage": usage}
            self.reply(200, {**answer, "choices": [choice]})

        def reply(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    judge.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
