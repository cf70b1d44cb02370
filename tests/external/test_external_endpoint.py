"""What is asked of a judge's endpoint before a tool is started: whether it is there, and takes the key."""

import re
import socket
import threading

import pytest
from benchmark_server import Judge
from test_external_judges import judges

from epsilon_dpo.external.verdicts.tool import reach
from epsilon_dpo.pipeline.observability.errors import UserError


@pytest.mark.parametrize("reply", [b"", b"\x15\x03\x01\x00\x02\x02\x46"], ids=["nothing", "TLS"])
def test_a_server_that_speaks_no_http_is_one_sentence(judge: Judge, reply: bytes) -> None:
    """One that is still starting, or a TLS port that is asked as http."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        with pytest.raises(UserError, match=rf"^The judge at {url} does not answer \([ -~]*\); start it, or fix"):
            reach(judges(url).mt_bench)
        thread.join()


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
