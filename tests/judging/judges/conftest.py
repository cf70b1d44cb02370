from collections.abc import Iterator
from pathlib import Path

import pytest
from judge_server import JudgeServer
from llm_replies import KEY

from epsilon_dpo.judging.judges import llm_endpoint


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    """An endpoint that is tried once. The cache is written below the working directory; the key is the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(llm_endpoint, "RETRIES", 0)
    monkeypatch.setattr(llm_endpoint, "SILENT_RETRIES", 0)
    with JudgeServer() as running:
        yield running
