"""A judge that asks the endpoint of judge_server.py, what it keeps, and completions to put in its place."""

import sqlite3
from pathlib import Path
from typing import Any

from judge_server import JudgeServer

from epsilon_dpo.judging.judges.interface import Question
from epsilon_dpo.judging.judges.llm import LLM

KEY = "sk-secret-of-the-test"
PROMPT = [{"role": "user", "content": "Why is the sky blue?"}]
QUESTIONS = [Question(PROMPT, f"because {n}", f"for {n}") for n in range(5)]
CACHE = Path("cache/judge/answers.sqlite")
SETTINGS = {
    "model": "judge", "temperature": 0.0, "max_tokens": 4, "concurrency": 1, "timeout": 20.0,
    "usd_per_million_input_tokens": 2.0, "usd_per_million_output_tokens": 8.0,
}  # fmt: skip
USAGE = {"prompt_tokens": 100, "completion_tokens": 1}


def judge(server: JudgeServer) -> LLM:
    return LLM.load(SETTINGS | {"base_url": server.url})


def replies() -> list[str]:
    with sqlite3.connect(CACHE) as opened:
        return [row[0] for row in opened.execute("SELECT reply FROM answers")]


def completion(content: Any, **changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    usage = changes.pop("usage", USAGE)
    return {"object": "chat.completion", "choices": [choice | changes], "usage": usage}
