"""What is asked of a judge's endpoint before a tool is started: whether it is there, and takes the key."""

import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from benchmark_server import Judge
from test_external_judges import judges

from epsilon_dpo.external.verdicts.tool import Contest, alone, call, reach
from epsilon_dpo.pipeline.observability.errors import UserError


@contextmanager
def replying(reply: bytes) -> Iterator[str]:
    """The address of a server that says this to whatever is asked, once."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        thread.join()


@pytest.mark.parametrize("reply", [b"", b"\x15\x03\x01\x00\x02\x02\x46"], ids=["nothing", "TLS"])
def test_a_server_that_speaks_no_http_is_one_sentence(judge: Judge, reply: bytes) -> None:
    """One that is still starting, or a TLS port that is asked as http."""
    with (
        replying(reply) as url,
        pytest.raises(UserError, match=rf"^The judge at {url} does not answer \([ -~]*\); start it, or fix"),
    ):
        reach(judges(url).mt_bench)


def test_a_key_that_may_not_list_models_is_no_wrong_one(judge: Judge) -> None:
    """A restricted one, which may ask for completions."""
    for body, is_wrong in ((b'{"error": {"message": "Missing scopes: api.model.read."}}', False), (b"{}", True)):
        with replying(b"HTTP/1.0 403 Forbidden\r\n\r\n" + body) as url:
            if is_wrong:
                with pytest.raises(UserError, match=r"refuses the key in OPENAI_API_KEY \(403\)"):
                    reach(judges(url).mt_bench)
            else:
                assert reach(judges(url).mt_bench)


def test_what_else_a_tool_would_read_of_the_users_environment_does_not_reach_it(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """openai 0.28 takes Azure's form of requests, and another key than the one that was checked, from there."""
    for name in ("OPENAI_API_TYPE", "OPENAI_API_VERSION", "OPENAI_API_KEY_PATH"):
        monkeypatch.setenv(name, "azure")
    with alone(tmp_path) as lock:
        contest = Contest("mine", tmp_path, tmp_path, judges(judge.url).mt_bench, tmp_path, lock)
        call(Path(sys.executable), ["-c", "import os; print(*sorted(os.environ))"], contest)
    reached = {name for name in (tmp_path / "tool.log").read_text().split() if name.startswith("OPENAI_API")}
    assert reached == {"OPENAI_API_BASE", "OPENAI_API_KEY"}


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:80OO/v1", "http://local host/v1", "http://[::1/v1", "http://a..b/v1"]
)
def test_what_is_no_address_is_one_sentence(judge: Judge, url: str) -> None:
    with pytest.raises(UserError, match=rf"^The judge at {re.escape(url)} does not answer \(.+\); start it, or fix"):
        reach(judges(url).mt_bench)


@pytest.mark.parametrize("key", ["a-secret\n", "a-secret-ключ"])
def test_what_is_no_key_is_refused_and_not_shown(judge: Judge, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match=r"^OPENAI_API_KEY holds a line break or a character .*") as no:
        reach(judges(judge.url).mt_bench)
    assert "a-secret" not in str(no.value)
