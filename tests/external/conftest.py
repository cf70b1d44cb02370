"""The folder external/ to work in with every benchmark's data, and a judge on this machine."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.external.benchmarks.questions import Question, read_questions

sys.path.insert(0, str(Path(__file__).parent))
from benchmark_files import WRITERS
from benchmark_server import KEY, Judge, benchmark_server


@pytest.fixture
def external(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty external/ with every benchmark's data, as the working folder."""
    for benchmark, write in WRITERS.items():
        (tmp_path / "external" / "data" / benchmark).mkdir(parents=True)
        write(tmp_path / "external" / "data" / benchmark)
    monkeypatch.chdir(tmp_path / "external")
    return tmp_path / "external"


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with benchmark_server() as server:
        yield server


@pytest.fixture
def dialogues() -> Callable[..., tuple[list[Question], list[dict[str, Any]]]]:
    """Questions of a benchmark in data/, and made-up answers to them: the n-th turn overall says good n % 4 times."""

    def make(benchmark: Any) -> tuple[list[Question], list[dict[str, Any]]]:
        questions = read_questions(benchmark, Path("data") / benchmark)
        answers, said = [], 0
        for question in questions:
            turns = []
            for prompt in question.turns:
                response = " ".join(["good"] * (said % 4) + [f"answer-{said}"])
                turns.append(
                    {"prompt": prompt, "response": response, "response_ids": [5, 6, 2], "finish_reason": "stop"}
                )
                said += 1
            answers.append({"id": question.id, "turns": turns})
        return questions, answers

    return make
